"""How a score becomes a probability: forms of calibration, each fitted on one half of dev and measured on the other.

    python benchmarks/calibration.py MODEL CORPUS [--tokens FOLDER] [--deals 5] [--device DEVICE]

MODEL is a ranker's bundle whose scores lie in [0, 1], such as data/models/blend. Dev is dealt into halves anew each
time; either half is fitted on and measured on once. One JSON line a form, means over halves: the expected calibration
error of the first 1, 5 and 10 suggestions, and the log-loss of the first 5. Test is not looked at.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.evaluation.calibration import PLACES, expected_calibration_error
from cascadexml.metrics import Bool, Float64, hit_matrix
from cascadexml.progress import console_progress
from cascadexml.rankers.base import Documents
from cascadexml.rankers.loading import load_ranker

K = 100
Columns = Callable[[Float64, Float64], list[Float64]]
"""Scores (N, K) and numbers of words (N, 1) → columns (N, K) or (N, 1) of the regression."""


@dataclass(frozen=True)
class Form:
    """A name, how many of the first places are fitted on, and the columns."""

    name: str
    places: int
    columns: Columns


def ends(s: Float64) -> list[Float64]:
    """The two columns of beta calibration."""
    return [np.log(s), -np.log1p(-s)]


def mass(s: Float64, places: int = PLACES) -> Float64:
    """The logarithm of what a document's first scores add up to."""
    return np.asarray(np.log(s[:, :places].sum(axis=1, keepdims=True)))


FORMS = (
    *(Form(f"Platt, first {places}", places, lambda s, w: [sum(ends(s))]) for places in (K, 10, 5)),  # type: ignore[list-item]
    *(Form(f"bend, first {places}", places, lambda s, w: ends(s)) for places in (10, 5)),
    Form("bend and mass, first 10", 10, lambda s, w: [*ends(s), mass(s)]),
    Form("bend, mass and words, first 10", 10, lambda s, w: [*ends(s), mass(s), np.log(w)]),
    Form("bend and mass of 20, first 20", 20, lambda s, w: [*ends(s), mass(s, 20)]),
)


def main() -> None:
    """Print one line a form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokens", type=Path, help="of the corpus, such as data/interim/tokens")
    parser.add_argument("--deals", type=int, default=5)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    dev = Corpus.load(arguments.corpus).splits["dev"]
    tokens = None if arguments.tokens is None else TokenStore.open(arguments.tokens / "dev")
    ranker = load_ranker(arguments.model, arguments.device)
    ranking = ranker.rank(Documents(dev.texts, tokens), K, progress=console_progress())
    scores, hits = np.clip(ranking.scores.astype(np.float64), 1e-12, 1 - 1e-7), hit_matrix(ranking, dev.Y)
    words = np.array([[max(len(text.split()), 1)] for text in dev.texts], dtype=np.float64)
    for form in FORMS:
        found = []
        for deal in range(arguments.deals):
            halves = np.array_split(np.random.default_rng(deal).permutation(len(scores)), 2)
            for fitted, measured in (halves, halves[::-1]):
                found.append(figures(form, scores, words, hits, fitted, measured))
        means = np.mean(found, axis=0).round(4).tolist()
        names = ("ECE@1", "ECE@5", "ECE@10", "log-loss@5")
        print(json.dumps({"form": form.name, **dict(zip(names, means, strict=True))}), flush=True)


def figures(
    form: Form,
    scores: Float64,
    words: Float64,
    hits: Bool,
    fitted: np.ndarray[tuple[int], np.dtype[np.int64]],
    measured: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> list[float]:
    """One form's figures on the documents `measured`, fitted on those `fitted`."""

    def design(rows: np.ndarray[tuple[int], np.dtype[np.int64]], places: int) -> Float64:
        s = scores[rows]
        columns = [np.broadcast_to(column, s.shape) for column in form.columns(s, words[rows])]
        return np.stack(columns, axis=-1)[:, :places].reshape(-1, len(columns))

    regression = LogisticRegression(C=np.inf, tol=1e-6, max_iter=1000)
    regression.fit(design(fitted, form.places), hits[fitted, : form.places].ravel())
    p = regression.predict_proba(design(measured, 10))[:, 1].reshape(-1, 10)
    right = hits[measured, :10]
    errors = [expected_calibration_error(p[:, :k].ravel(), right[:, :k].ravel()) for k in (1, 5, 10)]
    chance = np.where(right, p, 1 - p)[:, :5]
    return [*errors, float(-np.log(np.maximum(chance, 1e-12)).mean())]


if __name__ == "__main__":
    main()
