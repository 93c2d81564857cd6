"""How fast texts become tokens beside the bare tokenizer, and batches beside a training step.

    python -m benchmarks.reading CORPUS [--texts 15000] [--rounds 5]

Texts are those of the corpus' train split, repeated where it has fewer. Each round times `TokenStore.build`, with its
file, its checks and its digest, and the tokenizers library's own `encode_batch` on the same texts and all cores, one
after the other; then batches of 64 from the store, with their positive labels, and the bare encoder's step on them. One
JSON line, medians over the rounds.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.steps import Bare, labels, random_tree
from cascadexml.config import EncoderSettings, TrainSettings, load_settings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.positives import LevelPositives
from cascadexml.training.run import Run

LABELS, BATCH = 670_091, 64
T = TypeVar("T")


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--texts", type=int, default=15_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    # Only the environment reaches the threads of the Rust tokenizers, and only before their first use.
    os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(os.cpu_count() or 1)}
    corpus = Corpus.load(arguments.corpus, ["train"])
    texts = list(itertools.islice(itertools.cycle(corpus.splits["train"].texts), arguments.texts))
    settings = load_settings(Path("params.yaml"))
    name, length = settings.encoder.name, settings.tokenize.max_length
    tokenizer, bare = load_tokenizer(name), load_tokenizer(name).backend_tokenizer
    bare.no_padding()
    bare.enable_truncation(length)
    seconds: dict[str, list[float]] = {"ours": [], "bare": [], "batch": [], "step": []}
    tree = random_tree(LABELS)
    positives = LevelPositives(labels(len(texts), LABELS), tree)
    with tempfile.TemporaryDirectory() as scratch:
        for _ in range(arguments.rounds + 1):
            store, taken = timed(TokenStore.build, Path(scratch) / "tokens", texts, tokenizer, length)
            seconds["ours"].append(taken)
            seconds["bare"].append(timed(bare.encode_batch, texts)[1])
        run = Run(
            corpus=corpus,
            tokens={"train": store},
            tree=tree,
            encoder=EncoderSettings(name=name),
            settings=TrainSettings(device="cpu"),
            seed=0,
            propensity_a=0.55,
            propensity_b=1.5,
        )
        bare_step = Bare(run).step
        random = np.random.default_rng(0)
        for turn in range(2 * arguments.rounds + 1):
            rows = random.integers(0, len(texts), BATCH)
            seconds["batch"].append(timed(read_batch, store, positives, rows)[1])
            seconds["step"].append(timed(bare_step, turn, rows)[1])
    # The first of each is for caches.
    medians = {each: statistics.median(taken[1:]) for each, taken in seconds.items()}
    line = {
        "texts": len(texts),
        "texts a second": round(len(texts) / medians["ours"]),
        "rate over the bare tokenizer's": round(medians["bare"] / medians["ours"], 3),
        "labels of the batches": LABELS,
        "milliseconds a batch": round(1000 * medians["batch"], 2),
        "batch over the encoder's step": round(medians["batch"] / medians["step"], 4),
    }
    print(json.dumps(line))


def read_batch(store: TokenStore, positives: LevelPositives, rows: npt.NDArray[np.int64]) -> None:
    """All that a step reads of its batch."""
    store.batch(rows)
    positives.batch(rows, torch.device("cpu"))


def timed(work: Callable[..., T], *arguments: Any) -> tuple[T, float]:
    """What it gives, and the seconds that it took."""
    start = time.perf_counter()
    found = work(*arguments)
    return found, time.perf_counter() - start


if __name__ == "__main__":
    main()
