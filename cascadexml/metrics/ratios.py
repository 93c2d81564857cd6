"""A figure as a ratio of two sums over documents: what can be split, compared and resampled."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


class Ratio(NamedTuple):
    """A figure as two (N,) arrays: over any set of documents it is sum(numerator) / sum(denominator)."""

    numerator: Float64
    denominator: Float64

    @property
    def figure(self) -> float:
        """Over all N documents; 0 where there is nothing to measure."""
        total = float(self.denominator.sum())
        return float(self.numerator.sum()) / total if total else 0.0


def stack(ratios: Mapping[str, Ratio]) -> Ratio:
    """M ratios as one of two (N, M) arrays, in the mapping's order."""
    return Ratio(
        np.stack([ratio.numerator for ratio in ratios.values()], axis=1),
        np.stack([ratio.denominator for ratio in ratios.values()], axis=1),
    )


def divide(numerator: Float64, denominator: npt.NDArray[np.number]) -> Float64:
    """Elementwise, with 0 / 0 = 0: a document without labels gains nothing."""
    below = np.broadcast_to(denominator, numerator.shape)
    return np.divide(numerator, below, out=np.zeros_like(numerator), where=below != 0)
