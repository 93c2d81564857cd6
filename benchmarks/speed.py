"""What an answer costs beside the bare encoder, for one text and for many, and where the time goes.

    python benchmarks/speed.py ARTIFACT CORPUS [--texts 256] [--rounds 5] [--device DEVICE]

ARTIFACT holds a blend of a single network; the texts are those of the corpus' test split. Each round times the
encoder, the whole and each part, one after the other, so that a machine that is busy for a while slows all of them.
One JSON line a batch size: medians over the rounds, in milliseconds a text and over the encoder's.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cascadexml import Predictor
from cascadexml.data.corpus import Corpus
from cascadexml.errors import CascadeXMLError
from cascadexml.rankers.base import Documents
from cascadexml.rankers.blend import DEPTH, NAMES_DEPTH, Blend
from cascadexml.rankers.cascade.ranker import CascadeRanker

BATCHES = (1, 64)


def main() -> None:
    """Print one line a batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    texts = Corpus.load(arguments.corpus, ["test"]).splits["test"].texts[: arguments.texts]
    predictor = Predictor.load(arguments.artifact, arguments.device)
    blend = predictor.ranker
    if not isinstance(blend, Blend) or not isinstance(blend.sources.cascade, CascadeRanker):
        raise CascadeXMLError(f"{arguments.artifact} holds no blend of a single network")
    for batch in BATCHES:
        chosen = texts if batch > 1 else texts[: max(1, len(texts) // 4)]
        chunks = [Documents(chosen[start : start + batch]) for start in range(0, len(chosen), batch)]
        work = parts(predictor, blend, blend.sources.cascade)
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for turn in range(arguments.rounds + 1):
            for name, run in work.items():
                taken = timed(run, chunks)
                if turn:  # the first is for caches
                    seconds[name].append(taken / len(chosen))
        medians = {name: statistics.median(each) for name, each in seconds.items()}
        ratios = {name: round(each / medians["encoder"], 3) for name, each in medians.items()}
        shown = {name: round(1000 * each, 3) for name, each in medians.items()}
        print(json.dumps({"batch": batch, "texts": len(chosen), "ms a text": shown, "over the encoder": ratios}))


def parts(predictor: Predictor, blend: Blend, cascade: CascadeRanker) -> dict[str, Callable[[Documents], object]]:
    """What is timed: the bare encoder, tokenizing included; all of an answer; each part of it."""
    sources = blend.sources
    work: dict[str, Callable[[Documents], object]] = {
        "encoder": lambda documents: encode(cascade, documents),
        "answer": lambda documents: predictor.predict(documents.texts),
        "network": lambda documents: cascade.rank(documents, DEPTH),
    }
    depths = {"linear": DEPTH, "neighbours": DEPTH, "names": NAMES_DEPTH}
    readers = {name: depth for name, depth in depths.items() if name in sources.listed}
    return work | {name: partial(getattr(sources, name).rank, K=depth) for name, depth in readers.items()}


@torch.inference_mode()
def encode(cascade: CascadeRanker, documents: Documents) -> None:
    """Texts → the encoder's last layer, as anybody's first lines of transformers code do it."""
    tokens = cascade.tokens_of(documents)
    batch = tokens.batch(np.arange(len(tokens)))
    device = next(cascade.network.parameters()).device
    cascade.network.encoder(input_ids=batch.input_ids.to(device), attention_mask=batch.attention_mask.to(device))


def timed(run: Callable[[Documents], object], chunks: list[Documents]) -> float:
    """Seconds that all chunks take."""
    start = time.perf_counter()
    for chunk in chunks:
        run(chunk)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
