"""What an exported model gains and costs: ONNX in fp32 and int8 beside torch in fp32, one text and many, in one run.

    python -m benchmarks.export ARTIFACT CORPUS [--texts 256] [--rounds 5]

The artifact is exported twice into a folder that is removed at the end. All texts are those of dev; test is not read.
Each round times torch, ONNX and int8 one after the other, tokenizing and classifiers included, so that a machine that
is busy for a while slows all of them. One JSON line a batch size: medians over the rounds in milliseconds a text, and
how many times as fast as torch. Then a line for the cascade alone and, where there is one, for the blend: P@1, P@5 and
nDCG@5 on all of dev, what the exports lose of them in points, and by how much scores differ.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import sparse

from cascadexml.artifact.artifact import Artifact, open_artifact
from cascadexml.artifact.exporting import export_artifact
from cascadexml.data.corpus import Corpus
from cascadexml.errors import CascadeXMLError
from cascadexml.metrics import document_metrics
from cascadexml.rankers.base import Documents, Ranker
from cascadexml.rankers.blend import DEPTH, Blend
from cascadexml.ranking import NO_LABEL, Ranking

BATCHES = (1, 64)
SHOWN = ("P@1", "P@5", "nDCG@5")


def main() -> None:
    """Print one line a batch size, then one a ranker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--texts", type=int, default=256, help="of dev, that are timed (a quarter of them one by one)")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    dev = Corpus.load(arguments.corpus, ["dev"]).splits["dev"]
    source = open_artifact(arguments.artifact)
    with tempfile.TemporaryDirectory() as scratch:
        artifacts = {"torch": source}
        for name, precision in (("onnx", "fp32"), ("int8", "int8")):
            export_artifact(source, Path(scratch) / name, precision)  # type: ignore[arg-type]
            artifacts[name] = open_artifact(Path(scratch) / name)
        rankers = {name: artifact.ranker("cpu") for name, artifact in artifacts.items()}
        cascades = {name: cascade_of(ranker, artifacts[name]) for name, ranker in rankers.items()}
        for batch in BATCHES:
            chosen = dev.texts[: arguments.texts if batch > 1 else max(1, arguments.texts // 4)]
            print(json.dumps(speed(cascades, chosen, batch, arguments.rounds)))
        for what, each in (("cascade", cascades), ("blend", rankers)):
            if what == "cascade" or isinstance(rankers["torch"], Blend):
                print(json.dumps({"ranker": what, **quality(each, dev.texts, dev.Y)}))


def cascade_of(ranker: Ranker, artifact: Artifact) -> Ranker:
    """The network, or the ensemble, that answers or is a blend's source."""
    if isinstance(ranker, Blend):
        return ranker.sources.cascade
    if not hasattr(ranker, "rank_with_vectors"):
        raise CascadeXMLError(f"{artifact.path} holds no cascade")
    return ranker


def speed(rankers: Mapping[str, Ranker], texts: list[str], batch: int, rounds: int) -> dict[str, object]:
    """Milliseconds a text of each, and how many times as fast as torch."""
    chunks = [Documents(texts[start : start + batch]) for start in range(0, len(texts), batch)]
    seconds: dict[str, list[float]] = {name: [] for name in rankers}
    for turn in range(rounds + 1):
        for name, ranker in rankers.items():
            start = time.perf_counter()
            for chunk in chunks:
                ranker.rank(chunk, DEPTH)
            if turn:  # the first is for caches
                seconds[name].append((time.perf_counter() - start) / len(texts))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "batch": batch,
        "texts": len(texts),
        "ms a text": {name: round(1000 * each, 3) for name, each in medians.items()},
        "times as fast": {name: round(medians["torch"] / each, 2) for name, each in medians.items()},
    }


def quality(rankers: Mapping[str, Ranker], texts: list[str], Y: sparse.csr_matrix) -> dict[str, object]:
    """Figures in percent, what the exports lose in points, and how far the scores of the same labels lie apart."""
    rankings = {name: ranker.rank(Documents(texts), DEPTH) for name, ranker in rankers.items()}
    figures = {}
    for name, ranking in rankings.items():
        found = document_metrics(ranking, Y, (1, 5))
        figures[name] = {metric: round(100 * float(found[metric].mean()), 2) for metric in SHOWN}
    lost = {
        name: {metric: round(figures["torch"][metric] - each[metric], 2) for metric in SHOWN}
        for name, each in figures.items()
    }
    apart = {name: apart_at_most(rankings["torch"], ranking) for name, ranking in rankings.items()}
    return {"texts": len(texts), "figures": figures, "lost": lost, "scores apart": apart}


def apart_at_most(one: Ranking, other: Ranking) -> float:
    """The largest difference of two rankings' scores at one place."""
    both = (one.labels != NO_LABEL) & (other.labels != NO_LABEL)
    return float(np.abs(one.scores[both] - other.scores[both]).max(initial=0.0))


if __name__ == "__main__":
    main()
