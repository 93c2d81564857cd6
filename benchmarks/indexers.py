"""How fast and how tight our label tree is beside PECOS's indexer, on the same features: PIFA included, no label walk.

    python -m benchmarks.indexers [--labels 131073] [--documents 200000] [--rounds 2]
    python -m benchmarks.indexers --corpus data/interim/corpus             # real records instead

Synthetic data are those of label_trees.py, in the shape of Amazon-670K. Both build, in processes of their own that read
the same files, one after the other in each round, as many clusters of as many labels. One JSON line: seconds and
greatest resident size, medians over the rounds, and the mean cosine of a label and its cluster's centroid, for both by
all the features that PIFA gives.
"""

import argparse
import json
import math
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.label_trees import SHAPES, TOP, alone, hand_over, read
from benchmarks.peers import foreign
from cascadexml.data.sparse_files import read_npz
from cascadexml.labels.features import pifa
from cascadexml.labels.tree import LabelTree, build_tree, derive_levels, tree_quality

BRANCHING = 8
"""Labels a leaf cluster, as the pipeline has them."""


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=131_073)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shape = SHAPES["amazon-670k"]
        L = alone(hand_over, arguments.labels, arguments.documents, arguments.corpus, folder, shape)
        C = derive_levels(L, BRANCHING)[-1]
        ours, theirs = [], []
        for number in range(arguments.rounds):
            ours.append(alone(our_tree, folder, C))
            theirs.append(pecos_tree(folder, folder / str(number), math.ceil(L / C)))
        print(json.dumps(alone(compare, folder, ours, theirs)))


def our_tree(folder: Path, C: int) -> dict[str, float]:
    """Build ours, and keep its order and clusters in `folder`."""
    X, Y = read(folder)
    start = time.perf_counter()
    Z = pifa(X, Y, TOP)
    features = time.perf_counter() - start
    start = time.perf_counter()
    tree = build_tree(Z, (C,), 0)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    np.save(folder / "ours.npy", tree.cluster_of(0))
    return {"features": features, "tree": seconds, "peak GB": peak}


def pecos_tree(folder: Path, out: Path, most: int) -> dict[str, float]:
    """Build PECOS's, with leaves of `most` labels, and keep its clusters in `folder`."""
    clocks = foreign.run("pecos_tree", folder, out, {"seed": 0, "indexer": {"nr_splits": 2, "max_leaf_size": most}})
    np.save(folder / "theirs.npy", np.asarray(read_npz(out / "tree.npz").argmax(axis=1)).ravel())
    peak = json.loads((out / "peak.json").read_text(encoding="utf-8"))
    return {name: clock.seconds for name, clock in clocks.items()} | {"peak GB": peak}


def compare(folder: Path, ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> dict[str, Any]:
    """The line."""
    X, Y = read(folder)
    Z = pifa(X, Y, X.shape[1])
    found: dict[str, Any] = {"labels": Y.shape[1], "documents": Y.shape[0], "uses": Y.nnz, "features": Z.nnz}
    for name, rounds in (("ours", ours), ("theirs", theirs)):
        clusters = np.load(folder / f"{name}.npy")
        C = int(clusters.max()) + 1
        offsets = np.concatenate([[0], np.bincount(clusters, minlength=C).cumsum()])
        tree = LabelTree(np.argsort(clusters, kind="stable"), (offsets,), Y.shape[1], (C,))
        medians = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
        quality = tree_quality(tree, Z)
        found[name] = {key: round(value, 2) for key, value in medians.items()} | {
            "clusters": C,
            "cosine": round(quality[f"cosine_{C}"], 4),
            "random": round(quality[f"random_cosine_{C}"], 4),
        }
    whole = {name: found[name]["features"] + found[name]["tree"] for name in ("ours", "theirs")}
    found["times faster"] = round(whole["theirs"] / whole["ours"], 2)
    found["times the memory"] = round(found["ours"]["peak GB"] / found["theirs"]["peak GB"], 2)
    found["times the cosine"] = round(found["ours"]["cosine"] / found["theirs"]["cosine"], 3)
    return found


if __name__ == "__main__":
    main()
