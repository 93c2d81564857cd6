"""How a blend's weights are fitted: on how many first places, and which sources, cross-fitted on dev.

    python benchmarks/mixture.py MODEL CORPUS [--tokens FOLDER] [--deals 5] [--device DEVICE]

MODEL is a blend's bundle, such as data/models/blend. One JSON line a way, means over deals of dev into folds: metrics,
recall of tail labels and the expected calibration error of the first five. Test is not looked at.
"""

import argparse
import json
from pathlib import Path
from unittest import mock

import numpy as np
from scipy import sparse

from cascadexml.config import EvaluateSettings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.evaluation.calibration import expected_calibration_error, suggestions
from cascadexml.metrics import evaluate
from cascadexml.progress import console_progress
from cascadexml.rankers import mixture
from cascadexml.rankers.base import Documents
from cascadexml.rankers.blend import Blend, candidates
from cascadexml.ranking import Ranking

PLACES = (3, 5, 7, 10, 20, 100)
SHOWN = ("P@1", "P@5", "nDCG@20", "R@20", "PSP@1", "PSP@5")
SETTINGS = EvaluateSettings(ks=[1, 5, 20], bootstrap_samples=1)
FOLDS = 5


def main() -> None:
    """Print one line a way of fitting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--tokens", type=Path, help="of the corpus, such as data/interim/tokens")
    parser.add_argument("--deals", type=int, default=5)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    corpus = Corpus.load(arguments.corpus, ["train", "dev"])
    dev, Y_train = corpus.splits["dev"], corpus.splits["train"].Y
    tokens = None if arguments.tokens is None else TokenStore.open(arguments.tokens / "dev")
    blend = Blend.load(arguments.model, arguments.device)
    rankings, _ = blend.sources.rank(Documents(dev.texts, tokens), console_progress())
    ways = [(places, list(rankings)) for places in PLACES]
    ways += [(mixture.DECISIVE, [name for name in rankings if name != out]) for out in list(rankings)[1:]]
    for places, sources in ways:
        chosen = {name: rankings[name] for name in sources}
        found = [ranked(chosen, dev.Y, blend, places, deal) for deal in range(arguments.deals)]
        means = np.mean([figures(ranking, dev.Y, Y_train) for ranking in found], axis=0).round(4).tolist()
        names = (*SHOWN, "tail R@5", "ECE@5")
        print(json.dumps({"places": places, "sources": sources, **dict(zip(names, means, strict=True))}), flush=True)


def ranked(rankings: dict[str, Ranking], Y: sparse.csr_matrix, blend: Blend, places: int, deal: int) -> Ranking:
    """Dev by weights that were fitted for so many first places, on the other folds of one deal."""
    found = candidates(rankings, blend.L)
    right = np.asarray(Y[:, : blend.L].tocsr()[found.documents, found.labels]).ravel() > 0
    with mock.patch.object(mixture, "DECISIVE", places):
        probabilities = mixture.cross_fitted(found, right, blend.uses, FOLDS, deal)
    return found.ranked(probabilities, max(SETTINGS.ks), blend.L)


def figures(ranking: Ranking, Y: sparse.csr_matrix, Y_train: sparse.csr_matrix) -> list[float]:
    """Those of `SHOWN`, the tail's recall and the calibration error."""
    report = evaluate(ranking, Y, Y_train, SETTINGS, threshold=0.5, seed=0)
    error = expected_calibration_error(*suggestions(ranking, Y, 5))
    return [*(report.figures[name] for name in SHOWN), report.bins["tail"].figures["R@5"], error]


if __name__ == "__main__":
    main()
