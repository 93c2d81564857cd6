"""Validate: data/raw → data/interim/corpus, data/interim/rejects.parquet and data/reports/validation."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import stages
from cascadexml import quality
from cascadexml.artifact.predecessor import open_predecessor
from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.errors import DataError


def main(settings: Settings) -> None:
    """Refuse bad records, check the expectations, and write the corpus unless a critical one fails.

    Where there is a predecessor, its vocabulary is extended, so that its labels keep their rows.
    """
    base = open_predecessor(stages.BASE).vocabulary if stages.BASE.exists() else None
    records = {split: _read(stages.RAW / f"{split}.parquet") for split in ("train", "dev", "test")}
    labels = _read(stages.RAW / "labels.parquet")
    label_names = dict(zip(labels.column("id").to_pylist(), labels.column("name").to_pylist(), strict=True))
    # A corpus of older records must not outlive a run that refuses the new ones.
    shutil.rmtree(stages.CORPUS, ignore_errors=True)
    kept = quality.validate(
        records, label_names, settings.validate, rejects=stages.REJECTS, reports=stages.REPORTS / "validation"
    )
    Corpus.from_records(kept, label_names, base).save(stages.CORPUS)


def _read(file: Path) -> pa.Table:
    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read ({error}): run the download stage, dvc repro download.") from None


if __name__ == "__main__":
    stages.run(main)
