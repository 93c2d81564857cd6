"""Effects: how far two samples lie apart, by the measure that suits what they are samples of, and how likely that is by
chance.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse, special, stats

from cascadexml.metrics import Float64

MOST_VECTORS = 3000
"""Vectors of either side that the domain classifier sees; more cost time and tell nothing new."""
FOLDS = 5
_LEAST_CELL = 10
_CELLS_AT_ONCE = 1 << 22


class Effect(NamedTuple):
    """How far two samples lie apart, and how likely that is by chance."""

    value: float
    p_value: float


def shift(reference: Float64, batch: Float64) -> Effect:
    """Wasserstein distance over the reference's standard deviation, and the p-value of Kolmogorov and Smirnov.

    Where all values of the reference are equal, the deviation of both samples together is taken.
    """
    scale = float(reference.std()) or float(np.concatenate([reference, batch]).std())
    if scale == 0:
        return Effect(0.0, 1.0)
    distance = float(stats.wasserstein_distance(reference, batch)) / scale
    return Effect(distance, float(stats.ks_2samp(reference, batch, method="asymp").pvalue))


def category_distance(reference: pa.ChunkedArray, batch: pa.ChunkedArray) -> Effect:
    """Jensen-Shannon distance (base 2, in [0, 1]) of two samples of strings, and the p-value of the chi-square test.

    For the test alone, values that occur fewer than 10 times in both samples together are taken as one.
    """
    counts = [
        dict(zip(*(part.to_pylist() for part in pc.value_counts(s).flatten()), strict=True)) for s in (reference, batch)
    ]
    values = sorted({*counts[0], *counts[1]})
    table = np.array([[count.get(value, 0) for value in values] for count in counts], dtype=np.float64)
    distance = float(np.sqrt(js_divergence(*(table / table.sum(axis=1, keepdims=True)))))
    rare = table.sum(axis=0) < _LEAST_CELL
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    p_value = float(stats.chi2_contingency(table, correction=False).pvalue) if table.shape[1] > 1 else 1.0
    return Effect(distance, p_value)


def js_divergence(p: Float64, q: Float64) -> Float64:
    """Jensen-Shannon divergence, base 2, in [0, 1], of distributions over the last axis."""
    middle = (p + q) / 2
    nats = special.rel_entr(p, middle).sum(axis=-1) + special.rel_entr(q, middle).sum(axis=-1)
    return np.asarray(nats / (2 * np.log(2)))


def domain_auc(reference: npt.NDArray[np.floating], batch: npt.NDArray[np.floating], seed: int = 0) -> Effect:
    """How well a linear classifier tells (n, d) from (m, d) vectors: cross-validated area under the ROC curve.

    0.5 means not at all. The p-value is that of the Mann-Whitney statistic, whose mean over the folds is about normal.
    With fewer vectors than folds on either side there is no effect to speak of.

    Source: Lopez-Paz and Oquab, 2017, "Revisiting classifier two-sample tests".
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    sides = [
        side if len(side) <= MOST_VECTORS else side[np.sort(rng.choice(len(side), MOST_VECTORS, replace=False))]
        for side in (reference, batch)
    ]
    n, m = map(len, sides)
    if min(n, m) < FOLDS:
        return Effect(0.5, 1.0)
    X = StandardScaler().fit_transform(np.concatenate(sides).astype(np.float32))
    y = np.repeat([0, 1], [n, m])
    areas, variances = [], []
    for fit, held_out in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(X, y):
        classifier = LogisticRegression(C=1e-3, class_weight="balanced", max_iter=200).fit(X[fit], y[fit])
        areas.append(roc_auc_score(y[held_out], classifier.decision_function(X[held_out])))
        ones = int(y[held_out].sum())
        variances.append((held_out.size + 1) / (12 * ones * (held_out.size - ones)))
    area, deviation = float(np.mean(areas)), float(np.sqrt(np.mean(variances) / FOLDS))
    return Effect(area, float(stats.norm.sf((area - 0.5) / deviation)))


def label_distance(Y_train: sparse.csr_matrix, Y: sparse.csr_matrix, null: Float64, seed: int = 0) -> Effect:
    """How much further a batch's label frequencies lie from train's than those of as many training documents do.

    The value is the batch's Jensen-Shannon divergence (base 2) from train, all unseen labels taken as one, less the
    mean of `null`. The p-value is the share of the null that lies at least as far out, the batch counted as one.

    Args:
        Y_train: (N, L).
        Y: (n, V), columns [0, L) being those of train; of more than N / 2 documents a sample is taken.
        null: (S,) from `null_divergences`, of min(n, N / 2) documents.
        seed: of the sample.
    """
    N, L = Y_train.shape
    n = min(Y.shape[0], N // 2)
    if n == 0:
        return Effect(0.0, 1.0)
    if n < Y.shape[0]:
        Y = Y[np.sort(np.random.default_rng(seed).choice(Y.shape[0], n, replace=False))]
    used = np.bincount(np.minimum(Y.indices, L), minlength=L + 1).astype(np.float64)
    total = np.bincount(Y_train.indices, minlength=L).astype(np.float64)
    observed = float(_from_train(used[None, :L], used[L:], total)[0])
    p_value = (1 + int(np.sum(null >= observed))) / (null.size + 1)
    return Effect(observed - float(null.mean()), p_value)


def null_divergences(Y_train: sparse.csr_matrix, n: int, draws: int, seed: int = 0) -> Float64:
    """(draws,) Jensen-Shannon divergences of n random documents of train, each time from the rest of train.

    From the rest, so that labels which no other document has count as unseen, as they would in new documents.

    Args:
        Y_train: (N, L).
        n: at most N / 2 are drawn.
        draws: how often.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    N, L = Y_train.shape
    n = min(n, N // 2)
    total = np.bincount(Y_train.indices, minlength=L).astype(np.float64)
    null = np.empty(draws)
    at_once = max(1, _CELLS_AT_ONCE // max(L, 1))
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start)
        rows = np.concatenate([rng.choice(N, n, replace=False) for _ in range(size)])
        chosen = sparse.csr_matrix((np.ones(rows.size), rows, np.arange(size + 1) * n), shape=(size, N))
        parts = (chosen @ Y_train).toarray()
        rest = total - parts
        new = np.where(rest == 0, parts, 0.0)
        null[start : start + size] = _from_train(parts - new, new.sum(axis=1), rest)
    return null


def _from_train(uses: Float64, unseen: Float64, train: Float64) -> Float64:
    """(S,) divergence of S label counts (S, L) and their uses of unseen labels (S,) from train's, (L,) or (S, L)."""
    counts = np.column_stack([uses, unseen])
    known = np.column_stack([np.broadcast_to(train, uses.shape), np.zeros(len(uses))])
    p, q = (each / np.maximum(each.sum(axis=1, keepdims=True), 1.0) for each in (counts, known))
    return js_divergence(p, q)
