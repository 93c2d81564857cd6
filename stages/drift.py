"""drift: a batch of later records against the reference in an artifact → data/reports/drift.

    python -m stages.drift [--batch SOURCE] [--model ARTIFACT] [--out FOLDER]

Without flags it is the DVC stage. The exit code is 0 whatever the verdict, and 1 where the batch cannot be read at all.
The stage has nothing to compare where `drift.batch` is a folder with a README alone, as it is for own data at first.
"""

import argparse
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from cascadexml.bundle import beside
from cascadexml.config import Settings
from cascadexml.monitoring.batch import read_batch
from cascadexml.monitoring.comparison import compare_batch
from cascadexml.monitoring.report import write_report
from cascadexml.progress import console_progress
from cascadexml.registry.opening import open_model
from cascadexml.storage.fetch import fetch
from stages import ARTIFACT, DATA, DRIFT, run

log = logging.getLogger(__name__)


def main(settings: Settings, argv: Sequence[str] | None = None) -> None:
    """Write verdict.json, report.html, report.json, accepted.parquet and rejects.parquet at once."""
    parser = argparse.ArgumentParser(prog="python -m stages.drift")
    parser.add_argument("--batch", metavar="SOURCE", help="default: drift.batch, which may be an empty folder")
    parser.add_argument("--model", default=str(ARTIFACT), metavar="ARTIFACT", help="a folder, or a model in a registry")
    parser.add_argument("--out", type=Path, default=DRIFT, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    if arguments.batch is None:
        arguments.batch = settings.drift.batch
        if is_empty(Path(arguments.batch)):
            say_nothing_came(arguments.batch, arguments.out)
            return
    progress = console_progress()
    artifact = open_model(arguments.model)
    folder = DATA / "downloads" / hashlib.sha256(arguments.batch.encode()).hexdigest()[:16]
    path = fetch(arguments.batch, folder, None, progress)
    batch = read_batch(path, arguments.batch, settings.download, settings.validate)
    found = compare_batch(batch, artifact, settings.drift, settings.seed, settings.train.device, progress)
    with beside(arguments.out) as new:
        new.mkdir()
        pq.write_table(batch.accepted, new / "accepted.parquet", compression="zstd")
        pq.write_table(batch.rejects, new / "rejects.parquet", compression="zstd")
        write_report(new, found.verdict, found.reference, found.profile, settings.drift, settings.seed)
        text = json.dumps(found.verdict.to_json(), indent=1, ensure_ascii=False)
        (new / "verdict.json").write_text(text + "\n", encoding="utf-8")
    for reason in found.verdict.reasons:
        log.info("%s", reason)
    log.info("batch %s: %s", batch.id, found.verdict.outcome)


def is_empty(folder: Path) -> bool:
    """Whether it is a folder in which nobody has put anything beside its README."""
    return folder.is_dir() and all(file.name == "README.md" for file in folder.iterdir())


def say_nothing_came(batch: str, out: Path) -> None:
    """Write verdict.json with no verdict and its reason, alone."""
    reason = f"{batch} holds no records: put later records there, or name them in drift.batch, to compare them."
    with beside(out) as new:
        new.mkdir()
        text = json.dumps({"verdict": None, "reasons": [reason]}, indent=1, ensure_ascii=False)
        (new / "verdict.json").write_text(text + "\n", encoding="utf-8")
    log.info("%s", reason)


if __name__ == "__main__":
    run(main)
