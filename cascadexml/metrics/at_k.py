"""Metrics of the first k places of a ranking: P, R, F1, nDCG, and the propensity-scored PSP and PSnDCG.

Columns of Y that the ranker cannot rank (labels unseen in train) stay in every denominator. A document without
labels scores 0 on everything and stays in the mean, as in scikit-learn's `ndcg_score`.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from cascadexml.metrics.ratios import Bool, Float64, Ratio, divide
from cascadexml.ranking import NO_LABEL, Ranking

_DOCUMENTS_A_CHUNK = 1 << 16


def hit_matrix(ranking: Ranking, Y: sparse.csr_matrix, K: int | None = None) -> Bool:
    """Which of the first K places of each document hold a true label: (N, min(K, ranking's K)) bool."""
    N, V = Y.shape
    labels = ranking.labels[:, :K]
    if labels.shape[0] != N:
        raise ValueError(f"the ranking has {labels.shape[0]} documents, Y has {N}")
    if labels.size and labels.max() >= V:
        raise ValueError(f"the ranking holds label {labels.max()}, Y has {V} columns")
    if not Y.has_sorted_indices:
        Y = Y.sorted_indices()
    hits = np.zeros(labels.shape, dtype=np.bool_)
    for start in range(0, N, _DOCUMENTS_A_CHUNK):
        indptr = Y.indptr[start : start + _DOCUMENTS_A_CHUNK + 1]
        rows = np.arange(indptr.size - 1, dtype=np.int64)
        truth = np.repeat(rows * V, np.diff(indptr)) + Y.indices[indptr[0] : indptr[-1]]
        if truth.size:
            part = labels[start : start + rows.size]
            keys = rows[:, None] * V + part
            places = np.minimum(np.searchsorted(truth, keys), truth.size - 1)
            hits[start : start + rows.size] = (truth[places] == keys) & (part != NO_LABEL)
    return hits


def document_ratios(
    ranking: Ranking, Y: sparse.csr_matrix, ks: Sequence[int], inv_propensity: Float64 | None = None
) -> dict[str, Ratio]:
    """P, R, F1, nDCG and, with propensities, PSP and PSnDCG at each k, for each document, as ratios.

    With y the document's labels, h_i = 1 where place i holds one of them, d_i = 1 / log2(i + 1), w_l = 1 / p_l:

        P@k     sum_i h_i / k                       R@k     sum_i h_i / |y|
        F1@k    2 sum_i h_i / (k + |y|)             nDCG@k  sum_i h_i d_i / I,  I = sum of d_i over i <= min(k, |y|)
        PSP@k   sum_i h_i w_i / k                   over the same of the best ranking: labels of y by falling w
        PSnDCG  sum_i h_i w_i d_i / I               over the same of the best ranking

    The last two divide sums over documents, not document by document: a propensity-scored figure is 1 for the best
    possible ranking of the whole split (pyxclib's `psprecision` and `psndcg`).

    Args:
        ranking: (N, K); places beyond K count as misses.
        Y: (N, len(vocabulary)) true labels.
        ks: the cut-offs.
        inv_propensity: (len(vocabulary),); without it PSP and PSnDCG are left out.

    Returns:
        "P@1" and so on to two (N,) float64 arrays.
    """
    N = Y.shape[0]
    width = max(ks)
    found = hit_matrix(ranking, Y, width)
    hits = np.zeros((N, width))
    hits[:, : found.shape[1]] = found
    positives = np.diff(Y.indptr)
    discounts = 1 / np.log2(np.arange(2, width + 2))
    right = hits.cumsum(axis=1)
    dcg = (hits * discounts).cumsum(axis=1)
    ideal_dcg = np.concatenate([[0.0], discounts.cumsum()])
    ones = np.ones(N)
    ratios: dict[str, Ratio] = {}
    ideals = {k: ideal_dcg[np.minimum(positives, k)] for k in ks}
    ratios |= {f"P@{k}": Ratio(right[:, k - 1] / k, ones) for k in ks}
    ratios |= {f"R@{k}": Ratio(divide(right[:, k - 1], positives), ones) for k in ks}
    ratios |= {f"F1@{k}": Ratio(2 * right[:, k - 1] / (k + positives), ones) for k in ks}
    ratios |= {f"nDCG@{k}": Ratio(divide(dcg[:, k - 1], ideals[k]), ones) for k in ks}
    if inv_propensity is None:
        return ratios
    gains = hits.copy()
    # A NO_LABEL place reads the last weight, times a hit of 0.
    gains[:, : found.shape[1]] *= inv_propensity[ranking.labels[:, :width]]
    best = _best_gains(Y, inv_propensity, width)
    gained, possible = gains.cumsum(axis=1), best.cumsum(axis=1)
    ratios |= {f"PSP@{k}": Ratio(gained[:, k - 1] / k, possible[:, k - 1] / k) for k in ks}
    gained, possible = (gains * discounts).cumsum(axis=1), (best * discounts).cumsum(axis=1)
    ratios |= {
        f"PSnDCG@{k}": Ratio(divide(gained[:, k - 1], ideals[k]), divide(possible[:, k - 1], ideals[k])) for k in ks
    }
    return ratios


def document_metrics(
    ranking: Ranking, Y: sparse.csr_matrix, ks: Sequence[int], inv_propensity: Float64 | None = None
) -> dict[str, Float64]:
    """`document_ratios` as one (N,) array a metric whose mean over documents is the split's figure.

    A propensity-scored value is the document's gain over the mean best gain of the split, so it may exceed 1.
    """
    return {
        name: divide(numerator, np.full_like(numerator, denominator.mean()))
        for name, (numerator, denominator) in document_ratios(ranking, Y, ks, inv_propensity).items()
    }


def _best_gains(Y: sparse.csr_matrix, weights: Float64, width: int) -> Float64:
    """The greatest `width` weights among each document's labels, falling: (N, width), 0 where there are fewer."""
    N = Y.shape[0]
    rows = np.repeat(np.arange(N), np.diff(Y.indptr))
    values = weights[Y.indices]
    order = np.lexsort((-values, rows))
    places = np.arange(order.size) - Y.indptr[:-1][rows]
    kept = places < width
    best = np.zeros((N, width))
    best[rows[kept], places[kept]] = values[order][kept]
    return best
