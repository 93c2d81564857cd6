"""What a batch's verdict looks like to people: a page with Evidently's report below it.

Evidently is imported inside `write_report` alone: the import takes many seconds.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cascadexml.config import DriftSettings
from cascadexml.monitoring.history import OUTCOME_COLOURS
from cascadexml.monitoring.profile import Profile
from cascadexml.monitoring.verdict import Verdict
from cascadexml.pages import render

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("name", "kind", "statistic", "value", "threshold", "p_value", "reference", "batch", "failed")


def write_report(
    folder: Path,
    verdict: Verdict,
    reference: Profile | None,
    batch: Profile | None,
    settings: DriftSettings,
    seed: int = 0,
) -> None:
    """Write report.html and report.json: our own verdict and checks, and below them Evidently's report of samples.

    Evidently's part is left out for a quarantined batch, which has no profile, and where `report_rows` is 0.

    Args:
        folder: where the two files go.
        verdict: on the batch.
        reference: the reference's profile.
        batch: the batch's.
        settings: thresholds and `report_rows`, how many records of either side Evidently sees.
        seed: of the samples.
    """
    values = {"verdict": verdict, "colour": OUTCOME_COLOURS[verdict.outcome], "columns": _COLUMNS}
    document: dict[str, Any] = {}
    if reference is not None and batch is not None and len(batch) and settings.report_rows:
        theirs, document = _evidently(reference, batch, settings, seed)
        ours = render("cascadexml.monitoring", "verdict.html", **values, rows=settings.report_rows)
        page = theirs.replace("<body>", f"<body>\n{ours}", 1)
    else:
        page = render("cascadexml.monitoring", "report.html", **values, rows=None)
    (folder / "report.html").write_text(page, encoding="utf-8")
    text = json.dumps({"verdict": verdict.to_json(), "evidently": document}, indent=1, ensure_ascii=False)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")


def _evidently(reference: Profile, batch: Profile, settings: DriftSettings, seed: int) -> tuple[str, dict[str, Any]]:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    # Evidently takes no column without a value, and none that one side lacks.
    shared = [name for name in reference.table.column_names if name in batch.table.column_names]
    categories = [name for name in shared if pa.types.is_string(reference.table.schema.field(name).type)]
    numbers = [name for name in shared if name not in categories]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=categories)
    ours, theirs = (
        Dataset.from_pandas(_sample(side, shared, settings.report_rows, seed), data_definition=definition)
        for side in (reference, batch)
    )
    preset = DataDriftPreset(
        drift_share=min(settings.min_failed / len(shared), 1.0),
        num_method="wasserstein",
        num_threshold=settings.max_text_shift,
        cat_method="jensenshannon",
        cat_threshold=settings.max_metadata_distance,
    )
    snapshot = Report([preset]).run(theirs, ours)
    document: dict[str, Any] = json.loads(snapshot.json())
    return snapshot.get_html_str(as_iframe=False), document


def _sample(side: Profile, columns: Sequence[str], rows: int, seed: int) -> "pd.DataFrame":
    table = side.table.select(columns)
    if table.num_rows > rows:
        chosen = np.sort(np.random.default_rng(seed).choice(table.num_rows, rows, replace=False))
        table = table.take(pa.array(chosen))
    frame: pd.DataFrame = table.to_pandas()
    return frame
