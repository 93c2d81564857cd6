"""Quality: refusing raw records with reasons, and holding what is left to a Great Expectations suite."""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cascadexml.bundle import beside
from cascadexml.config import ValidateSettings
from cascadexml.errors import DataError
from cascadexml.quality.figures import Measured, measure
from cascadexml.quality.rules import DAMAGE, REASONS, Screened, screen
from cascadexml.quality.suite import CRITICAL, Failure, SuiteResults, run_suites

__all__ = [
    "DAMAGE",
    "REASONS",
    "Failure",
    "Measured",
    "Screened",
    "SuiteResults",
    "measure",
    "run_suites",
    "screen",
    "validate",
]

log = logging.getLogger(__name__)


def validate(
    records: Mapping[str, pa.Table],
    label_names: Mapping[str, str],
    settings: ValidateSettings,
    *,
    rejects: Path,
    reports: Path,
) -> dict[str, pa.Table]:
    """Screen and measure raw records, hold them to the expectations, and write what was refused and what was found.

    Args:
        records: RawRecords by split (see `cascadexml.readers`), train first.
        label_names: label id → name; may be empty.
        settings: the bounds.
        rejects: Parquet file of the refused records.
        reports: folder for `summary.json` and `data_docs/`.

    Returns:
        RawRecords by split, without the refused ones.

    Raises:
        DataError: a table is not RawRecords, or a critical expectation does not hold; in the latter case `rejects` and
            `reports` have been written, and the table of what failed has been logged.
    """
    measured = measure(records, label_names, settings)
    with beside(rejects) as file:
        pq.write_table(measured.rejects, file)
    for split, counted in measured.figures.items():
        log.info("%s: %d read, %d kept, %d refused %s", split, *_counts(counted))
    log.info("checking expectations (importing Great Expectations takes a while)")
    found = run_suites(measured, settings, reports / "data_docs")
    with beside(reports / "summary.json") as file:
        file.write_text(_summary(measured, found), encoding="utf-8")

    critical = [failure for failure in found.failures if failure.severity == CRITICAL]
    warnings = [failure for failure in found.failures if failure.severity != CRITICAL]
    if warnings:
        log.warning("%d of %d expectations give a warning:\n%s", len(warnings), found.expectations, _table(warnings))
    if critical:
        log.error("%d of %d expectations fail critically:\n%s", len(critical), found.expectations, _table(critical))
        worst = critical[0]
        raise DataError(
            f"The records fail {len(critical)} critical expectation(s), the first on {worst.column} of {worst.split}: "
            f"found {worst.observed}, expected {worst.expected}; see {reports / 'data_docs' / 'index.html'} and "
            f"{rejects}, then mend the source or the bounds in params.yaml under validate."
        )
    return measured.kept


def _counts(counted: Mapping[str, Any]) -> tuple[int, int, int, str]:
    reasons = ", ".join(f"{reason} {count}" for reason, count in counted["refused_for"].items())
    return counted["read"], counted["kept"], counted["refused"], f"({reasons})" if reasons else ""


def _summary(measured: Measured, found: SuiteResults) -> str:
    severities = [failure.severity for failure in found.failures]
    document = {
        "splits": measured.figures,
        "expectations": {
            "checked": found.expectations,
            "critical": severities.count(CRITICAL),
            "warning": len(severities) - severities.count(CRITICAL),
        },
        "failed": [vars(failure) for failure in found.failures],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _table(failures: Sequence[Failure]) -> str:
    table = Table("split", "column", "expectation", "observed", "expected", "rows", "examples", box=box.ASCII2)
    for failure in failures:
        rows = "" if failure.rows is None else str(failure.rows)
        texts = (failure.observed, failure.expected, rows, ", ".join(failure.examples))
        # Text, because rich would read square brackets in an id as markup.
        table.add_row(failure.split, *map(Text, (failure.column, failure.expectation, *texts)))
    text = io.StringIO()
    Console(file=text, width=180).print(table)
    return text.getvalue().rstrip()
