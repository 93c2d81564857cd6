"""From a file or folder of records to an artifact: what `cascadexml train` does."""

import logging
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from cascadexml.bundle import beside
from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.data.readers import read
from cascadexml.data.splitting import fill_splits, limit_splits
from cascadexml.errors import DataError
from cascadexml.estimator.artifact import train_artifact
from cascadexml.evaluation.report import EvaluationReport
from cascadexml.progress import Progress, silent
from cascadexml.quality.rules import rejects_table, screen

log = logging.getLogger(__name__)


def train_on_source(
    data: Path, settings: Settings, out: Path, progress: Progress = silent
) -> tuple[EvaluationReport, int]:
    """Read records, leave out those that cannot be trained on, and train.

    Beside the artifact stand `<out>.rejects.parquet`, the refused records with reasons, where there are any, and, as
    long as a training is not done, `<out>.checkpoints`.

    Args:
        data: a file or folder in any source format.
        settings: of the pipeline; `download` says how the source is read and split.
        out: the artifact's folder.
        progress: told of every step.

    Returns:
        What was measured, and how many records were refused.

    Raises:
        DataError: there is nothing to read, it cannot be read, or no record of train is left.
        ConfigError, EncoderError, TrainingError, PredictionError: as of `train_artifact`.
    """
    if not data.exists():
        raise DataError(f"{data} is not there: give a file or folder of records with labels.")
    source, download = read(data, settings.download), settings.download
    splits = fill_splits(source.splits, download.split)
    if download.limit is not None:
        splits = limit_splits(splits, download.limit)
    screened = {name: screen(table, settings.validate, name) for name, table in splits.items()}
    rejects = rejects_table(screened)
    file = out.with_name(f"{out.name}.rejects.parquet")
    file.unlink(missing_ok=True)
    if rejects.num_rows:
        with beside(file) as new:
            pq.write_table(rejects, new)
    kept = {name: each.kept for name, each in screened.items()}
    if not kept["train"].num_rows:
        raise DataError(f"no record of train in {data} can be trained on: {file} says why, record by record.")
    log.info("records: %s; %d refused", ", ".join(f"{n} {t.num_rows}" for n, t in kept.items()), rejects.num_rows)
    checkpoints = out.with_name(f"{out.name}.checkpoints")
    report = train_artifact(
        Corpus.from_records(kept, source.label_names), settings, out, checkpoints=checkpoints, progress=progress
    )
    shutil.rmtree(checkpoints, ignore_errors=True)
    return report, rejects.num_rows
