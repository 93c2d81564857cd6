"""Figures of a ranking against the truth: at k, propensity-scored, by label frequency, with bootstrap intervals.

Definitions follow the Extreme Classification Repository (Bhatia et al., 2016) and its reference code pyxclib, so
that figures compare with published ones. Every per-document figure is kept as a ratio of two per-document arrays:
the figure of a split is sum(numerator) / sum(denominator). For plain metrics the denominator is 1, which makes it the
mean over documents; for propensity-scored ones it is the gain of the best possible ranking.

Columns of Y that the ranker cannot rank (labels unseen in train) stay in every denominator. A document without
labels scores 0 on everything and stays in the mean, as in scikit-learn's `ndcg_score`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.errors import ConfigError
from cascadexml.ranking import NO_LABEL, Ranking

if TYPE_CHECKING:
    from cascadexml.config import EvaluateSettings

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

_DOCUMENTS_A_CHUNK = 1 << 16
_CELLS_A_CHUNK = 1 << 24


class Ratio(NamedTuple):
    """A figure as two (N,) arrays: over any set of documents it is sum(numerator) / sum(denominator)."""

    numerator: Float64
    denominator: Float64


class Difference(NamedTuple):
    """Ranker a minus ranker b on the same documents: figures, 95 % intervals, two-sided p-values; each () or (M,)."""

    difference: Float64
    low: Float64
    high: Float64
    p_value: Float64


def inverse_propensities(Y_train: sparse.csr_matrix, A: float, B: float) -> Float64:
    """How much rarer than it should be each label is annotated, from its uses in train.

    1 / p_l = 1 + C (N_l + B)^-A with C = (log N - 1)(B + 1)^A, natural logarithm (Jain, Prabhu, Varma, 2016, "Extreme
    multi-label loss functions", equation 3). Labels unseen in train have N_l = 0.

    Args:
        Y_train: (N, len(vocabulary)) labels of the train split.
        A: the exponent; 0.55 unless the data set has its own.
        B: the offset; 1.5 unless the data set has its own.

    Returns:
        (len(vocabulary),) inverse propensities.

    Raises:
        ConfigError: B is 0 and a label has no use in train: its propensity would be 0.
    """
    N, V = Y_train.shape
    uses = np.bincount(Y_train.indices, minlength=V).astype(np.float64)
    if B == 0 and not uses.all():
        raise ConfigError("evaluate.propensity_b is 0, but some labels have no use in train: give it a value above 0.")
    C = (np.log(max(N, 1)) - 1) * (B + 1) ** A
    return np.asarray(1 + C * (uses + B) ** -A)


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
    ratios |= {f"R@{k}": Ratio(_divide(right[:, k - 1], positives), ones) for k in ks}
    ratios |= {f"F1@{k}": Ratio(2 * right[:, k - 1] / (k + positives), ones) for k in ks}
    ratios |= {f"nDCG@{k}": Ratio(_divide(dcg[:, k - 1], ideals[k]), ones) for k in ks}
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
        f"PSnDCG@{k}": Ratio(_divide(gained[:, k - 1], ideals[k]), _divide(possible[:, k - 1], ideals[k])) for k in ks
    }
    return ratios


def document_metrics(
    ranking: Ranking, Y: sparse.csr_matrix, ks: Sequence[int], inv_propensity: Float64 | None = None
) -> dict[str, Float64]:
    """`document_ratios` as one (N,) array a metric whose mean over documents is the split's figure.

    A propensity-scored value is the document's gain over the mean best gain of the split, so it may exceed 1.
    """
    return {
        name: _divide(numerator, np.full_like(numerator, denominator.mean()))
        for name, (numerator, denominator) in document_ratios(ranking, Y, ks, inv_propensity).items()
    }


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


def frequency_bins(Y_train: sparse.csr_matrix, torso: int, head: int) -> dict[str, Bool]:
    """Labels by uses in train: head (>= `head`), torso (>= `torso`), tail (fewer), unseen (none); masks (V,)."""
    uses = np.bincount(Y_train.indices, minlength=Y_train.shape[1])
    return {
        "head": uses >= head,
        "torso": (uses >= torso) & (uses < head),
        "tail": (uses > 0) & (uses < torso) & (uses < head),
        "unseen": uses == 0,
    }


def bin_ratios(ranking: Ranking, Y: sparse.csr_matrix, mask: Bool, ks: Sequence[int]) -> dict[str, Ratio]:
    """One bin's figures as ratios.

    "R@k": of all (document, label) pairs with a label of the bin, the share found in the top k.
    "P@k_part": the bin's part of P@k, hits on its labels / k; the parts of all bins add up to P@k.
    """
    N = Y.shape[0]
    width = max(ks)
    found = hit_matrix(ranking, Y, width) & mask[ranking.labels[:, :width]]
    right = np.zeros((N, width))
    right[:, : found.shape[1]] = found
    right = right.cumsum(axis=1)
    positives = np.asarray(Y @ mask.astype(np.float64))
    ones = np.ones(N)
    ratios = {f"R@{k}": Ratio(right[:, k - 1], positives) for k in ks}
    return ratios | {f"P@{k}_part": Ratio(right[:, k - 1] / k, ones) for k in ks}


def bootstrap_intervals(
    values: Float64, samples: int, seed: int, denominators: Float64 | None = None
) -> tuple[Float64, Float64]:
    """Percentile 95 % intervals of a mean over documents, or of a ratio of sums (Efron and Tibshirani, 1993).

    Documents are drawn with replacement; all columns share the draws.

    Args:
        values: (N,) or (N, M), one column a figure.
        samples: how many resamples.
        seed: of the draws.
        denominators: like `values`: the figure is then sum(values) / sum(denominators).

    Returns:
        The lower and upper ends, each of shape () or (M,).
    """
    figures = resampled(values, samples, seed, denominators)
    low, high = np.percentile(figures, [2.5, 97.5], axis=0)
    return np.asarray(low), np.asarray(high)


def paired_bootstrap(
    a: Float64, b: Float64, samples: int, seed: int, denominators: Float64 | None = None
) -> Difference:
    """Compare two rankers on the same documents by resampling documents: figure of `a` minus figure of `b`.

    The p-value is twice the smaller share of resamples on one side of 0 (a resample at 0 counts on both), at most 1.
    The data themselves count as one resample on either side, so that a p-value is never 0 (Phipson and Smyth, 2010).

    Args:
        a: (N,) or (N, M) values of one ranker.
        b: of the other.
        samples: how many resamples.
        seed: of the draws.
        denominators: like `a` when figures are ratios of sums; the same for both rankers.
    """
    below = np.ones_like(a) if denominators is None else denominators
    figures = resampled(a - b, samples, seed, below)
    low, high = np.percentile(figures, [2.5, 97.5], axis=0)
    one_sided = (1 + np.minimum(np.sum(figures <= 0, axis=0), np.sum(figures >= 0, axis=0))) / (samples + 1)
    difference = _divide(np.sum(a - b, axis=0), np.sum(below, axis=0))
    return Difference(difference, low, high, np.minimum(2 * one_sided, 1.0))


def evaluate(
    ranking: Ranking,
    Y: sparse.csr_matrix,
    Y_train: sparse.csr_matrix,
    settings: "EvaluateSettings",
    *,
    threshold: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of one ranker on one split, as fractions.

    Args:
        ranking: (N, K) with K >= max(settings.ks), unless there are fewer labels.
        Y: (N, len(vocabulary)) true labels.
        Y_train: (N_train, len(vocabulary)) labels of train, for propensities and label frequencies.
        settings: the section `evaluate` of the parameters.
        threshold: when given, micro P, R, F1 and macro F1 of labels with at least this score are added.
        seed: of the bootstrap.

    Returns:
        {"figures": {name: value}, "intervals": {name: [low, high]},
        "bins": {bin: {"labels", "labels_true", "pairs", "R@k", "P@k_part", "coverage@k", "intervals": {…}}}}. Coverage
        and macro-F1 have no interval: they are no ratios of sums over documents.

    Raises:
        ConfigError: settings.top_k is less than the greatest k.
    """
    if settings.top_k < max(settings.ks):
        raise ConfigError(
            f"evaluate.top_k is {settings.top_k}, less than the greatest of evaluate.ks ({max(settings.ks)}): raise it."
        )
    ks = sorted(set(settings.ks))
    weights = inverse_propensities(Y_train, settings.propensity_a, settings.propensity_b)
    bins = frequency_bins(Y_train, settings.torso, settings.head)
    ratios = document_ratios(ranking, Y, ks, weights)
    if threshold is not None:
        ratios |= threshold_ratio(ranking, Y, threshold)
    figures = {name: _figure(ratio) for name, ratio in ratios.items()}
    figures |= coverage(ranking, Y, np.ones(Y.shape[1], dtype=np.bool_), ks)
    figures |= catalogue_coverage(ranking, ~bins["unseen"], ks)
    if threshold is not None:
        figures["macro_F1"] = macro_f1(ranking, Y, threshold)
    return {
        "figures": figures,
        "intervals": _intervals(ratios, settings.bootstrap_samples, seed),
        "bins": {
            name: _bin_report(ranking, Y, mask, ks, settings.bootstrap_samples, seed) for name, mask in bins.items()
        },
    }


def differences(
    ranking: Ranking,
    other: Ranking,
    Y: sparse.csr_matrix,
    Y_train: sparse.csr_matrix,
    settings: "EvaluateSettings",
    *,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """What `ranking` has over `other` on the same documents, for every metric at k, by `paired_bootstrap`.

    Returns:
        {"P@1": {"difference", "low", "high", "p_value"}, …}. Other arguments as of `evaluate`.
    """
    weights = inverse_propensities(Y_train, settings.propensity_a, settings.propensity_b)
    ours, theirs = (document_ratios(each, Y, settings.ks, weights) for each in (ranking, other))
    found = paired_bootstrap(
        np.stack([ratio.numerator for ratio in ours.values()], axis=1),
        np.stack([ratio.numerator for ratio in theirs.values()], axis=1),
        settings.bootstrap_samples,
        seed,
        np.stack([ratio.denominator for ratio in ours.values()], axis=1),
    )
    return {name: {field: float(values[i]) for field, values in found._asdict().items()} for i, name in enumerate(ours)}


def _chosen(ranking: Ranking, threshold: float) -> Bool:
    return np.asarray((ranking.scores >= threshold) & (ranking.labels != NO_LABEL))


def _bin_report(
    ranking: Ranking, Y: sparse.csr_matrix, mask: Bool, ks: Sequence[int], samples: int, seed: int
) -> dict[str, Any]:
    uses = np.bincount(Y.indices, minlength=Y.shape[1])[mask]
    report: dict[str, Any] = {
        "labels": int(mask.sum()),
        "labels_true": int((uses > 0).sum()),
        "pairs": int(uses.sum()),
    }
    if report["pairs"]:
        ratios = bin_ratios(ranking, Y, mask, ks)
        report |= {name: _figure(ratio) for name, ratio in ratios.items()}
        report |= coverage(ranking, Y, mask, ks)
        report["intervals"] = _intervals(ratios, samples, seed)
    return report


def _intervals(ratios: Mapping[str, Ratio], samples: int, seed: int) -> dict[str, list[float]]:
    low, high = bootstrap_intervals(
        np.stack([ratio.numerator for ratio in ratios.values()], axis=1),
        samples,
        seed,
        np.stack([ratio.denominator for ratio in ratios.values()], axis=1),
    )
    return {name: [float(low[i]), float(high[i])] for i, name in enumerate(ratios)}


def resampled(values: Float64, samples: int, seed: int, denominators: Float64 | None = None) -> Float64:
    """The figure of each bootstrap resample of documents: (samples,) for `values` (N,), (samples, M) for (N, M).

    Args:
        values: as of `bootstrap_intervals`.
        samples: how many resamples.
        seed: of the draws.
        denominators: like `values`; None for means.
    """
    N = values.shape[0]
    if N == 0:
        raise ValueError("there is no document to draw from")
    rng = np.random.default_rng(seed)
    below = np.ones(N) if denominators is None else denominators
    figures = np.empty((samples, *values.shape[1:]))
    chunk = max(1, _CELLS_A_CHUNK // N)
    for start in range(0, samples, chunk):
        size = min(chunk, samples - start)
        drawn = rng.integers(0, N, (size, N)) + np.arange(size)[:, None] * N
        counts = np.bincount(drawn.ravel(), minlength=size * N).reshape(size, N).astype(np.float64)
        totals = counts @ below
        if totals.ndim < figures.ndim:
            totals = totals[:, None]
        figures[start : start + size] = _divide(counts @ values, totals)
    return figures


def _figure(ratio: Ratio) -> float:
    total = float(ratio.denominator.sum())
    return float(ratio.numerator.sum()) / total if total else 0.0


def _divide(numerator: Float64, denominator: npt.NDArray[np.number]) -> Float64:
    """Elementwise, with 0 / 0 = 0: a document without labels gains nothing."""
    below = np.broadcast_to(denominator, numerator.shape)
    return np.divide(numerator, below, out=np.zeros_like(numerator), where=below != 0)


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
