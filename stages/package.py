"""Package: model, tokenizer, vocabulary, calibration, evaluation and reference → one verified folder."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import yaml

from cascadexml.artifact.artifact import Origin, pack
from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.report import EvaluationReport
from cascadexml.rankers.cascade.encoder import load_tokenizer
from stages import ARTIFACT, CALIBRATION, CORPUS, MODEL, REFERENCE, REPORTS, run

UPSTREAM = ("download", "validate", "tokenize", "cluster", "train", "evaluate", "reference")

# How a model is run and replaced later has no part in what it is.
OPERATION = ("drift", "retrain", "judge", "registry")


def main(settings: Settings) -> None:
    """Write the artifact."""
    corpus = Corpus.load(CORPUS)
    counts = np.bincount(corpus.splits["train"].Y.indices, minlength=len(corpus.vocabulary))
    pack(
        ARTIFACT,
        model=MODEL / "network",
        tokenizer=load_tokenizer(settings.encoder.name, settings.encoder.revision),
        max_length=settings.tokenize.max_length,
        vocabulary=corpus.vocabulary,
        label_counts=counts,
        calibration=Calibration.load(CALIBRATION),
        metrics=EvaluationReport.load(REPORTS / "metrics.json"),
        origin=Origin(
            name=settings.package.name,
            params={name: value for name, value in dataclasses.asdict(settings).items() if name not in OPERATION},
            documents={split: len(documents) for split, documents in corpus.splits.items()},
            data_fingerprint=corpus.fingerprint,
            git_revision=git_revision(),
            dvc_lock=lock_digest(Path("dvc.lock")),
        ),
        reference=REFERENCE,
    )


def git_revision() -> str | None:
    """The commit that is checked out, with "-dirty" when other tracked files than DVC's differ; None without git."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> str | None:
        answer = subprocess.run([git, *arguments], capture_output=True, text=True, check=False)  # noqa: S603
        return answer.stdout.strip() if answer.returncode == 0 else None

    revision = ask("rev-parse", "HEAD")
    if revision is None:
        return None
    changed = ask("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock", ":!data")
    return f"{revision}-dirty" if changed else revision


def lock_digest(path: Path) -> str | None:
    """SHA-256 over what dvc.lock says of the stages before this one; None where it says nothing.

    The file's own digest would change once this stage has run.
    """
    if not path.is_file():
        return None
    stages = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("stages", {})
    upstream = {name: stages[name] for name in UPSTREAM if name in stages}
    text = json.dumps(upstream, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest() if upstream else None


if __name__ == "__main__":
    run(main)
