"""How many different labels a ranker gives, over all documents together."""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from cascadexml.metrics.at_k import hit_matrix
from cascadexml.metrics.ratios import Bool
from cascadexml.ranking import NO_LABEL, Ranking


def coverage(ranking: Ranking, Y: sparse.csr_matrix, mask: Bool, ks: Sequence[int]) -> dict[str, float]:
    """ "coverage@k": of the labels of `mask` (V,) true for some document, the share found in at least one's top k."""
    V = Y.shape[1]
    hits = hit_matrix(ranking, Y, max(ks))
    true = mask & (np.bincount(Y.indices, minlength=V) > 0)
    found = {k: np.bincount(ranking.labels[:, :k][hits[:, :k]], minlength=V) > 0 for k in ks}
    return {f"coverage@{k}": float((true & found[k]).sum() / max(true.sum(), 1)) for k in ks}


def catalogue_coverage(ranking: Ranking, mask: Bool, ks: Sequence[int]) -> dict[str, float]:
    """ "catalogue_coverage@k": of the labels of `mask` (V,), the share in any document's top k, right or wrong."""
    figures = {}
    for k in ks:
        labels = ranking.labels[:, :k]
        predicted = np.bincount(labels[labels != NO_LABEL], minlength=mask.size) > 0
        figures[f"catalogue_coverage@{k}"] = float((predicted & mask).sum() / max(mask.sum(), 1))
    return figures
