"""How sure an artifact is of short texts, and how often it is right: windows of a few words out of test records.

    python -m benchmarks.short ARTIFACT CORPUS [--documents 1000] [--words 1 2 4 8 16]

A window counts as right where its document has the label, so some that are right of the window itself count as wrong.
One JSON line a number of words: means over the first five labels of the probability told and of the share that is
right, and the expected calibration error of these, as the artifact is and as its blend's `brevity` leaves it out.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cascadexml import Predictor
from cascadexml.data.corpus import Corpus
from cascadexml.errors import CascadeXMLError
from cascadexml.evaluation.calibration import expected_calibration_error, suggestions
from cascadexml.rankers.blend import Blend
from cascadexml.rankers.brevity import Brevity

PLACES = 5


def main() -> None:
    """Print one line a number of words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--words", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    predictor = Predictor.load(arguments.artifact, arguments.device)
    blend = predictor.ranker
    if not isinstance(blend, Blend):
        raise CascadeXMLError(f"{arguments.artifact} holds no blend")
    corpus = Corpus.load(arguments.corpus, ["test"])
    test, Y = corpus.splits["test"], corpus.splits["test"].Y[:, : blend.L].tocsr()
    sure = Predictor(replace(blend, brevity=Brevity()), predictor.vocabulary, predictor.calibration)
    for words in arguments.words:
        rows = np.flatnonzero([len(text.split()) >= words for text in test.texts])[: arguments.documents]
        texts = windows([test.texts[row] for row in rows], words)
        line: dict[str, Any] = {"words": words, "texts": len(texts)}
        for name, each in (("as it is", predictor), ("without brevity", sure)):
            told, right = suggestions(each.rank(texts, PLACES), Y[rows], PLACES)
            line[name] = {
                "told": round(float(told.mean()), 4),
                "right": round(float(right.mean()), 4),
                f"ECE@{PLACES}": round(expected_calibration_error(told, right), 4),
            }
        print(json.dumps(line), flush=True)


def windows(texts: list[str], words: int) -> list[str]:
    """So many words of each text, from anywhere in it."""
    random = np.random.default_rng(0)
    found = []
    for text in texts:
        each = text.split()
        start = int(random.integers(len(each) - words + 1))
        found.append(" ".join(each[start : start + words]))
    return found


if __name__ == "__main__":
    main()
