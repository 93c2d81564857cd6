"""What the label side costs by the number of labels: features, walk, smoothing, tree; seconds, memory, tightness.

    python benchmarks/label_trees.py [--labels 131073] [--documents 200000] [--hops 3]
    python benchmarks/label_trees.py --corpus data/interim/corpus          # real records instead

Synthetic data have the shape of Amazon-670K (75 of 135,909 features and 5.45 labels a document), labels with words of
their own in topics of some fifty, frequencies after Zipf, and hubs: a document in five carries one of a dozen labels
that go with everything. Each setting has a process of its own, whose greatest resident size is told. One JSON line.
"""

import argparse
import json
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from cascadexml.data.corpus import Corpus
from cascadexml.labels.features import affordable_features, label_walk, pifa, smooth
from cascadexml.labels.tfidf import Tfidf
from cascadexml.labels.tree import build_tree, derive_levels, tree_quality

VOCABULARY, FEATURES, LABELS, TOPIC, HUBS, TOP = 135_909, 75, 5.45, 50, 12, 1000


def main() -> None:
    """Print one line a number of labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, nargs="+", default=[16384, 131073])
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--hops", type=int, default=3)
    parser.add_argument("--corpus", type=Path)
    arguments = parser.parse_args()
    for L in arguments.labels if arguments.corpus is None else [0]:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as own:
            print(json.dumps(own.submit(measure, L, arguments).result()), flush=True)


def measure(L: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time each step."""
    X, Y = data_of(L, arguments.documents, arguments.corpus)
    L = Y.shape[1]
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    top = affordable_features(TOP, L)
    Z = pifa(X, Y, top)
    seconds["features"] = time.perf_counter() - start
    if arguments.hops:
        start = time.perf_counter()
        A = label_walk(Y, arguments.hops, 0.8, 10)
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


def data_of(L: int, N: int, corpus: Path | None) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """(N, V) features and (N, L) labels: a corpus's where one is given, synthetic ones else."""
    if corpus is None:
        return synthetic(L, N)
    found = Corpus.load(corpus, ["train"])
    return Tfidf.fit(found.splits["train"].texts, 1, 2, 500_000)[1], found.train_labels


def synthetic(L: int, N: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """(N, V) features and (N, L) labels."""
    random = np.random.default_rng(0)
    words = random.integers(0, VOCABULARY, (L, 30))
    counts = random.poisson(LABELS - 1, N) + 1
    document = np.repeat(np.arange(N), counts)
    topics = max(1, L // TOPIC)
    topic = (topics ** random.random(N)).astype(np.int64) - 1 if topics > 1 else np.zeros(N, dtype=np.int64)
    within = (TOPIC ** random.random(document.size)).astype(np.int64) - 1
    label = np.minimum(topic[document] * TOPIC + within, L - 1)
    hubs = np.flatnonzero(random.random(N) < 0.2)
    document = np.concatenate([document, hubs, random.integers(0, N, L)])
    # Every label has a document.
    label = np.concatenate([label, random.integers(0, min(HUBS, L), hubs.size), np.arange(L)])
    Y = sparse.csr_matrix((np.ones(label.size, np.float32), (document, label)), shape=(N, L))
    Y.data[:] = 1.0
    Y = Y.tocsr()
    row = np.repeat(np.arange(N), FEATURES)
    lengths = np.diff(Y.indptr)
    drawn = Y.indices[Y.indptr[:-1][row] + random.integers(0, 2**31, row.size) % lengths[row].clip(min=1)]
    feature = words[drawn, random.integers(0, 30, row.size)]
    noise = random.random(row.size) < 0.4
    feature[noise] = (VOCABULARY ** random.random(int(noise.sum()))).astype(np.int64) - 1
    values = random.random(row.size).astype(np.float32) + 0.1
    X = sparse.csr_matrix((values, (row, feature)), shape=(N, VOCABULARY))
    return X, Y


if __name__ == "__main__":
    main()
