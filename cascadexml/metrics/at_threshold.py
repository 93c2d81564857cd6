"""Metrics of the labels whose score reaches a threshold, however many these are."""

import numpy as np
from scipy import sparse

from cascadexml.metrics.at_k import hit_matrix
from cascadexml.metrics.ratios import Bool, Ratio
from cascadexml.ranking import NO_LABEL, Ranking


def threshold_ratio(ranking: Ranking, Y: sparse.csr_matrix, threshold: float) -> dict[str, Ratio]:
    """Micro-averaged P, R and F1 of the labels with a score of at least `threshold`, as ratios over documents."""
    chosen = _chosen(ranking, threshold)
    right = (hit_matrix(ranking, Y) & chosen).sum(axis=1).astype(np.float64)
    predicted = chosen.sum(axis=1).astype(np.float64)
    positives = np.diff(Y.indptr).astype(np.float64)
    return {
        "micro_P": Ratio(right, predicted),
        "micro_R": Ratio(right, positives),
        "micro_F1": Ratio(2 * right, predicted + positives),
    }


def macro_f1(ranking: Ranking, Y: sparse.csr_matrix, threshold: float) -> float:
    """Mean over labels of their F1 with scores of at least `threshold` predicted.

    A label counts when its F1 is defined: it is true or predicted for some document. Unseen labels that are true
    count with 0.
    """
    V = Y.shape[1]
    chosen = _chosen(ranking, threshold)
    right = np.bincount(ranking.labels[hit_matrix(ranking, Y) & chosen], minlength=V)
    total = np.bincount(ranking.labels[chosen], minlength=V) + np.bincount(Y.indices, minlength=V)
    return float(np.mean(2 * right[total > 0] / total[total > 0])) if total.any() else 0.0


def _chosen(ranking: Ranking, threshold: float) -> Bool:
    return np.asarray((ranking.scores >= threshold) & (ranking.labels != NO_LABEL))
