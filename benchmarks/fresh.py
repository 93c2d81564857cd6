"""A model's figures on test with and without the records whose texts also stand in train.

    python benchmarks/fresh.py HELD_OUT CORPUS

HELD_OUT is what the stage evaluate left of the model, CORPUS what it was trained on. One JSON line.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from cascadexml.config import EvaluateSettings
from cascadexml.data.corpus import Corpus
from cascadexml.evaluation.held_out import load_held_out
from cascadexml.metrics import document_metrics, inverse_propensities

SHOWN = ("P@1", "P@5", "F1@5", "nDCG@5", "nDCG@20", "R@20", "PSP@5")


def main() -> None:
    """Print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("corpus", type=Path)
    arguments = parser.parse_args()
    corpus, knobs = Corpus.load(arguments.corpus), EvaluateSettings()
    train, test = corpus.splits["train"], corpus.splits["test"]
    weights = inverse_propensities(train.Y, knobs.propensity_a, knobs.propensity_b)
    found = document_metrics(load_held_out(arguments.held_out)["test"].ranking, test.Y, [1, 5, 20], weights)
    known = set(train.texts)
    fresh = np.array([text not in known for text in test.texts])
    told = {
        name: {metric: round(float(found[metric][rows].mean()), 4) for metric in SHOWN}
        for name, rows in (("all", np.ones_like(fresh)), ("fresh", fresh))
    }
    print(json.dumps({"records": len(test), "seen in train": int((~fresh).sum()), **told}))


if __name__ == "__main__":
    main()
