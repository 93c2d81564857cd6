"""The Great Expectations suites: one over the records of each split, one over the splits side by side.

Great Expectations is imported inside `run_suites` alone: the import takes many seconds.
"""

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cascadexml.config import ValidateSettings
from cascadexml.quality import data_docs
from cascadexml.quality.figures import ABSENT, EMPTY, SHARES, Measured

CRITICAL, WARNING = "critical", "warning"
CRITICAL_SHARES = ("refused_share", "duplicate_share", "leak_share")
SPLITS = "splits"
"""Name of the suite over the splits side by side: one row, whose columns are called <split>.<figure>."""

_FLAGS = {
    "duplicate_share": "text_stands_earlier",
    "leak_share": "text_stands_in_train",
    "damaged_share": "text_is_damaged",
}
"""Share → the column of the facts that marks the records it counts."""

_EXAMPLES = 5


@dataclass(frozen=True)
class Failure:
    """An expectation that does not hold.

    Attributes:
        split: the split it concerns.
        expectation: Great Expectations' name for it.
        column: what was looked at: a column of the facts, a share, or `metadata.<name>`.
        severity: "critical" or "warning".
        observed: what was found.
        expected: what should have been.
        rows: the records (for unseen_label_share and unnamed_labels: labels) that fall short; None where none can
            be named.
        examples: ids of the first few of these records.
    """

    split: str
    expectation: str
    column: str
    severity: str
    observed: str
    expected: str
    rows: int | None
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class SuiteResults:
    """How many expectations were checked, and those that do not hold, critical ones first."""

    expectations: int
    failures: tuple[Failure, ...]


def run_suites(measured: Measured, settings: ValidateSettings, docs: Path) -> SuiteResults:
    """Run the suites and write Great Expectations' Data Docs to the folder `docs`; nothing else is left on disk.

    Args:
        measured: what `measure` found.
        settings: the bounds.
        docs: folder of the HTML pages; an older one is replaced.
    """
    # Read when the package is imported: it reports every run to its vendor unless told not to.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    # It logs hundreds of lines on its own workings at the level of ours.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    import great_expectations as gx
    from great_expectations.checkpoint import UpdateDataDocsAction
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import ProgressBarsConfig

    tables = {**measured.facts, SPLITS: _side_by_side(measured.figures)}
    suites = {split: _record_expectations(facts, settings) for split, facts in measured.facts.items()}
    suites[SPLITS] = _split_expectations(measured.figures, settings)
    with tempfile.TemporaryDirectory(prefix="cascadexml-") as scratch:
        folder = Path(scratch)
        context = gx.get_context(mode="file", project_root_dir=folder)
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        source = context.data_sources.add_or_update_pandas("validate")
        definitions = []
        for name, table in tables.items():
            pq.write_table(table, folder / f"{name}.parquet")
            batch = source.add_parquet_asset(name, path=folder / f"{name}.parquet").add_batch_definition("whole")
            suite = context.suites.add_or_update(gx.ExpectationSuite(name=name, expectations=suites[name]))
            definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
            definitions.append(context.validation_definitions.add_or_update(definition))
        checkpoint = gx.Checkpoint(
            name="validate",
            validation_definitions=definitions,
            # A file context brings this site with it; adding one of our own fails on the second run.
            actions=[UpdateDataDocsAction(name="data_docs", site_names=["local_site"])],
            result_format="SUMMARY",
        )
        outcome = context.checkpoints.add_or_update(checkpoint).run(run_id=RunIdentifier(run_name="validate"))
        results = {result.suite_name: result for result in outcome.run_results.values()}
        failures = [
            _failure(name, entry, measured) for name in tables for entry in results[name].results if not entry.success
        ]
        found = SuiteResults(
            expectations=sum(len(result.results) for result in results.values()),
            failures=tuple(sorted(failures, key=lambda failure: failure.severity != CRITICAL)),
        )
        statuses = {name: bool(results[name].success) for name in tables}
        site = folder / "gx" / "uncommitted" / "data_docs" / "local_site"
        data_docs.write(docs, site, statuses, [vars(failure) for failure in found.failures])
    return found


def _record_expectations(facts: pa.Table, settings: ValidateSettings) -> list[Any]:
    """What each kept record must be, whoever kept it: the row rules are checked here a second time."""
    import great_expectations.expectations as gxe

    bounds = {
        "n_chars": (settings.min_chars, settings.max_chars),
        "n_labels": (settings.min_labels, settings.max_labels),
    }
    flags = [name for name in facts.column_names if name == "text_stands_earlier" or "_stands_in_" in name]
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, severity=CRITICAL),
        gxe.ExpectColumnValuesToNotBeNull(column="id", severity=CRITICAL),
        gxe.ExpectColumnValuesToBeUnique(column="id", severity=CRITICAL),
        *(
            gxe.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high, severity=CRITICAL)
            for name, (low, high) in bounds.items()
        ),
        gxe.ExpectColumnPairValuesToBeEqual(column_A="n_labels", column_B="n_distinct_labels", severity=CRITICAL),
        *(gxe.ExpectColumnValuesToBeInSet(column=name, value_set=[False], severity=WARNING) for name in flags),
    ]


def _split_expectations(figures: Mapping[str, Mapping[str, Any]], settings: ValidateSettings) -> list[Any]:
    """Shares within their bounds, nothing refused or repaired, labels named, metadata of one type in every split."""
    import great_expectations.expectations as gxe

    expectations = []
    references = _reference_kinds(figures)
    for split, counted in figures.items():
        for share in SHARES:
            severity = CRITICAL if share in CRITICAL_SHARES else WARNING
            bound = getattr(settings, f"max_{share}")
            expectations.append(
                gxe.ExpectColumnMaxToBeBetween(column=f"{split}.{share}", max_value=bound, severity=severity)
            )
        expectations += [
            gxe.ExpectColumnMaxToBeBetween(column=f"{split}.{count}", max_value=0, severity=WARNING)
            for count in ("refused", "repaired", "unnamed_labels")
        ]
        expectations += [
            gxe.ExpectColumnValuesToBeInSet(
                column=f"{split}.metadata.{name}", value_set=[references[name], EMPTY], severity=WARNING
            )
            for name in counted["metadata"]
        ]
    return expectations


def _reference_kinds(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Metadata column → the kind it has in the first split that tells."""
    kinds: dict[str, str] = {}
    for counted in figures.values():
        for name, kind in counted["metadata"].items():
            if kinds.get(name, EMPTY) in (EMPTY, ABSENT):
                kinds[name] = kind
    return kinds


def _side_by_side(figures: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    row: dict[str, Any] = {}
    for split, counted in figures.items():
        row |= {f"{split}.{name}": value for name, value in counted.items() if isinstance(value, int | float)}
        row |= {f"{split}.metadata.{name}": kind for name, kind in counted["metadata"].items()}
    return pa.Table.from_pylist([row])


def _failure(suite: str, entry: Any, measured: Measured) -> Failure:
    config, result = entry.expectation_config, entry.result
    kwargs = config.kwargs
    column = kwargs.get("column", "records")
    split, column = column.split(".", 1) if suite == SPLITS else (suite, column)
    if column == "records" and "column_A" in kwargs:
        column = f"{kwargs['column_A']}, {kwargs['column_B']}"
    rows = result.get("unexpected_count")
    if suite == SPLITS:
        rows = measured.figures[split].get(SHARES.get(column, column))
    severity = str(config.severity.value)
    if "observed_value" in result:
        observed = f"{result['observed_value']:.6g}"
    elif "unexpected_count" in result:
        found = ", ".join(sorted({str(value) for value in result["partial_unexpected_list"]})[:3])
        observed = found if suite == SPLITS else f"{result['unexpected_count']} of {result['element_count']}: {found}"
    else:
        # The expectation itself could not be evaluated, so nothing is known: never let that pass as a warning.
        observed, severity = f"not evaluated: {_exception(entry)}", CRITICAL
    expected = _expected(config.type, kwargs, column)
    examples = _examples(measured.facts[split], _FLAGS.get(column, column))
    return Failure(split, config.type, column, severity, observed, expected, rows, examples)


def _examples(facts: pa.Table, flag: str) -> tuple[str, ...]:
    if flag not in facts.column_names or not pa.types.is_boolean(facts.schema.field(flag).type):
        return ()
    return tuple(facts.column("id").filter(facts.column(flag)).slice(0, _EXAMPLES).to_pylist())


def _exception(entry: Any) -> str:
    # A flat mapping for one exception, a mapping of such for several.
    info = entry.exception_info or {}
    nested = [info, *(value for value in info.values() if isinstance(value, dict))]
    return next((str(i["exception_message"]) for i in nested if i.get("exception_message")), "unknown error")


def _expected(kind: str, kwargs: Mapping[str, Any], column: str) -> str:
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    knob = f" (validate.max_{column})" if column in SHARES else ""
    if low is not None and high is not None:
        return f"from {low:g} to {high:g}"
    if low is not None:
        return f"at least {low:g}"
    if high is not None:
        return f"at most {high:g}{knob}"
    if "value_set" in kwargs:
        return " or ".join(str(value) for value in kwargs["value_set"])
    return kind.removeprefix("expect_column_").removeprefix("values_to_").replace("_", " ")
