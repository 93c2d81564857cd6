"""The bootstrap over documents: intervals of figures, and differences of two rankers on the same documents.

Efron and Tibshirani, 1993, "An Introduction to the Bootstrap". The only one in the library: metrics, judgement and
drift all draw here.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cascadexml.metrics.ratios import Float64, Ratio, divide, stack

_CELLS_A_CHUNK = 1 << 24


class Difference(NamedTuple):
    """Ranker a minus ranker b on the same documents: figures, 95 % intervals, two-sided p-values; each () or (M,)."""

    difference: Float64
    low: Float64
    high: Float64
    p_value: Float64


def resampled(
    values: Float64, samples: int, seed: int | np.random.Generator, denominators: Float64 | None = None
) -> Float64:
    """The figure of each resample of documents: (samples,) for `values` (N,), (samples, M) for (N, M).

    Args:
        values: (N,) or (N, M), one column a figure; all columns share the draws.
        samples: how many resamples.
        seed: of the draws, or what makes them.
        denominators: like `values`: the figure is then sum(values) / sum(denominators); None for means.
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
        figures[start : start + size] = divide(counts @ values, totals)
    return figures


def resampled_ratios(ratios: Mapping[str, Ratio], samples: int, seed: int) -> dict[str, Float64]:
    """`resampled` of each of several ratios, (samples,) each, all by the same draws."""
    above, below = stack(ratios)
    figures = resampled(above, samples, seed, below)
    return {name: figures[:, i] for i, name in enumerate(ratios)}


def percentile_interval(figures: Float64) -> tuple[Float64, Float64]:
    """The 95 % interval of what `resampled` gave: its 2.5th and 97.5th percentiles, of shape () or (M,)."""
    low, high = np.percentile(figures, [2.5, 97.5], axis=0)
    return np.asarray(low), np.asarray(high)


def bootstrap_intervals(
    values: Float64, samples: int, seed: int | np.random.Generator, denominators: Float64 | None = None
) -> tuple[Float64, Float64]:
    """Percentile 95 % intervals of a mean over documents, or of a ratio of sums.

    Args:
        values, samples, seed, denominators: as of `resampled`.

    Returns:
        The lower and upper ends, each of shape () or (M,).
    """
    return percentile_interval(resampled(values, samples, seed, denominators))


def ratio_intervals(ratios: Mapping[str, Ratio], samples: int, seed: int) -> dict[str, tuple[float, float]]:
    """The 95 % interval of each of several ratios, all by the same draws."""
    above, below = stack(ratios)
    low, high = bootstrap_intervals(above, samples, seed, below)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(ratios)}


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
    low, high = percentile_interval(figures)
    one_sided = (1 + np.minimum(np.sum(figures <= 0, axis=0), np.sum(figures >= 0, axis=0))) / (samples + 1)
    difference = divide(np.sum(a - b, axis=0), np.sum(below, axis=0))
    return Difference(difference, low, high, np.minimum(2 * one_sided, 1.0))
