"""Package: the trained ranker, vocabulary, calibration, evaluation and reference → one verified folder."""

from pathlib import Path

import numpy as np
import yaml

from cascadexml.artifact.origin import Origin, git_revision, lock_digest
from cascadexml.artifact.packing import pack
from cascadexml.config import Settings
from cascadexml.config.recorded import recorded
from cascadexml.data.corpus import Corpus
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.report import EvaluationReport
from stages import ARTIFACT, BLEND, CALIBRATION, CORPUS, REFERENCE, REPORTS, run

UPSTREAM = ("download", "validate", "tokenize", "cluster", "train", "linear", "blend", "evaluate", "reference")


def main(settings: Settings) -> None:
    """Write the artifact."""
    corpus, lock = Corpus.load(CORPUS), Path("dvc.lock")
    locked = yaml.safe_load(lock.read_text(encoding="utf-8")) if lock.is_file() else None
    pack(
        ARTIFACT,
        ranker=BLEND,
        vocabulary=corpus.vocabulary,
        label_counts=np.bincount(corpus.splits["train"].Y.indices, minlength=len(corpus.vocabulary)),
        calibration=Calibration.load(CALIBRATION),
        metrics=EvaluationReport.load(REPORTS / "metrics.json"),
        origin=Origin(
            name=settings.package.name,
            params=recorded(settings),
            documents={split: len(documents) for split, documents in corpus.splits.items()},
            data_fingerprint=corpus.fingerprint,
            git_revision=git_revision(Path()),
            dvc_lock=lock_digest(locked or {}, UPSTREAM),
        ),
        reference=REFERENCE,
    )


if __name__ == "__main__":
    run(main)
