"""What the label side costs by the number of labels: features, walk, smoothing, tree; seconds, memory, tightness.

    python -m benchmarks.label_trees [--labels 131073] [--documents 200000] [--hops 3] [--shape amazon-670k]
    python -m benchmarks.label_trees --corpus data/interim/corpus          # real records instead

Synthetic documents have the features and labels of Amazon-670K's (75 of 135,909 and 5.45) or Amazon-3M's (49 of
337,067 and 36), labels words of their own in topics of some fifty, a document's labels come from one topic or several,
frequencies fall after Zipf, and there are hubs: a document in five carries one of a dozen labels that go with
everything. Each setting has a process of its own, whose greatest resident size is told; the data are made in another.
One JSON line a setting.
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from cascadexml.data.corpus import Corpus
from cascadexml.data.sparse_files import read_npz
from cascadexml.labels.features import affordable_features, label_walk, pifa, smooth
from cascadexml.labels.tfidf import Tfidf
from cascadexml.labels.tree import build_tree, derive_levels, tree_quality

TOPIC, HUBS, TOP = 50, 12, 1000
A_TOPIC = 5
"""Labels that a document has of each of its topics."""


@dataclass(frozen=True)
class Shape:
    """A data set's vocabulary, and the features and labels of a document, by its published figures."""

    vocabulary: int
    features: int
    labels: float


SHAPES = {"amazon-670k": Shape(135_909, 75, 5.45), "amazon-3m": Shape(337_067, 49, 36.0)}


def main() -> None:
    """Print one line a number of labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, nargs="+", default=[16384, 131073])
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--hops", type=int, default=3)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="amazon-670k")
    arguments = parser.parse_args()
    for L in arguments.labels if arguments.corpus is None else [0]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            alone(hand_over, L, arguments.documents, arguments.corpus, folder, SHAPES[arguments.shape])
            print(json.dumps(alone(measure, folder, arguments.hops)), flush=True)


def alone(work: Any, *arguments: Any) -> Any:
    """What a function gives in a process of its own, whose greatest size is then its own too."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as own:
        return own.submit(work, *arguments).result()


def hand_over(labels: int, documents: int, corpus: Path | None, folder: Path, shape: Shape) -> int:
    """Write the documents' features and labels to `folder`, as PECOS's program reads them too; gives L."""
    X, Y = synthetic(labels, documents, shape) if corpus is None else real(corpus)
    sparse.save_npz(folder / "train.features.npz", X, compressed=False)
    sparse.save_npz(folder / "labels.npz", Y, compressed=False)
    return int(Y.shape[1])


def read(folder: Path) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """(N, V) features and (N, L) labels."""
    return read_npz(folder / "train.features.npz"), read_npz(folder / "labels.npz")


def measure(folder: Path, hops: int) -> dict[str, Any]:
    """Time each step."""
    X, Y = read(folder)
    L = Y.shape[1]
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    top = affordable_features(TOP, L)
    Z = pifa(X, Y, top)
    seconds["features"] = time.perf_counter() - start
    if hops:
        start = time.perf_counter()
        A = label_walk(Y, hops, 0.8, 10)
        seconds["walk"] = time.perf_counter() - start
        start = time.perf_counter()
        Z = smooth(Z, A, top)
        seconds["smoothing"] = time.perf_counter() - start
    start = time.perf_counter()
    tree = build_tree(Z, derive_levels(L, 8), 0)
    seconds["tree"] = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    quality = tree_quality(tree, Z)
    finest = tree.levels[-1]
    return {
        "labels": L,
        "documents": Y.shape[0],
        "uses": Y.nnz,
        "features kept a label, at most": top,
        "entries of the features": Z.nnz,
        "seconds": {name: round(each, 1) for name, each in seconds.items()},
        "minutes": round(sum(seconds.values()) / 60, 2),
        "labels a second of the walk": round(L / seconds["walk"]) if "walk" in seconds else None,
        "peak GB": round(peak, 2),
        "clusters": finest,
        "cosine": round(quality[f"cosine_{finest}"], 4),
        "random": round(quality[f"random_cosine_{finest}"], 4),
    }


def real(corpus: Path) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """(N, V) features and (N, L) labels of a corpus's train split."""
    found = Corpus.load(corpus, ["train"])
    return Tfidf.fit(found.splits["train"].texts, 1, 2, 500_000)[1], found.train_labels


def synthetic(L: int, N: int, shape: Shape = SHAPES["amazon-670k"]) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """(N, V) features and (N, L) labels."""
    random = np.random.default_rng(0)
    words = random.integers(0, shape.vocabulary, (L, 30))
    counts = random.poisson(shape.labels - 1, N) + 1
    document = np.repeat(np.arange(N), counts)
    topics, each = max(1, L // TOPIC), max(1, int(shape.labels) // A_TOPIC)
    drawn = (topics ** random.random((N, each))).astype(np.int64) - 1
    topic = drawn[document, random.integers(0, each, document.size) if each > 1 else 0]
    within = (TOPIC ** random.random(document.size)).astype(np.int64) - 1
    label = np.minimum(topic * TOPIC + within, L - 1)
    hubs = np.flatnonzero(random.random(N) < 0.2)
    document = np.concatenate([document, hubs, random.integers(0, N, L)])
    # Every label has a document.
    label = np.concatenate([label, random.integers(0, min(HUBS, L), hubs.size), np.arange(L)])
    Y = sparse.csr_matrix((np.ones(label.size, np.float32), (document, label)), shape=(N, L))
    Y.data[:] = 1.0
    row = np.repeat(np.arange(N), shape.features)
    lengths = np.diff(Y.indptr)
    chosen = Y.indices[Y.indptr[:-1][row] + random.integers(0, 2**31, row.size) % lengths[row].clip(min=1)]
    feature = words[chosen, random.integers(0, 30, row.size)]
    noise = random.random(row.size) < 0.4
    feature[noise] = (shape.vocabulary ** random.random(int(noise.sum()))).astype(np.int64) - 1
    values = random.random(row.size).astype(np.float32) + 0.1
    return sparse.csr_matrix((values, (row, feature)), shape=(N, shape.vocabulary)), Y


if __name__ == "__main__":
    main()
