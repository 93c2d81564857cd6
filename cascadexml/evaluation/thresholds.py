"""From which probability on labels are worth giving, found on candidates whose truth is known.

Candidates are taken by falling probability, those of equal probability together or not at all; a threshold lies
half-way between the last that is taken and the first that is left.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cascadexml.metrics import Bool, Float64

NEVER = math.inf
"""The threshold that nothing reaches."""
LEAST_GIVEN = 30
"""A precision counts as reached by at least so many candidates: the share right of fewer is mostly chance."""

Int64 = npt.NDArray[np.int64]


class _Cuts(NamedTuple):
    """Where the candidates may be cut: (M,) falling `order`; (T,) how many are taken, by which threshold."""

    order: Int64
    taken: Int64
    thresholds: Float64


def best_threshold(probabilities: Float64, hits: Bool, positives: int) -> float:
    """The threshold of the greatest micro-F1.

    Args:
        probabilities: (M,) of all candidates, at least one.
        hits: (M,) whether each is right.
        positives: how many (document, label) pairs are true, candidates or not.
    """
    cuts = _cuts(probabilities)
    right = np.cumsum(hits[cuts.order])[cuts.taken - 1]
    return float(cuts.thresholds[np.argmax(2 * right / (cuts.taken + positives))])


def macro_threshold(labels: Int64, probabilities: Float64, hits: Bool, positives: Int64) -> float:
    """The threshold of the greatest macro-F1, as `metrics.macro_f1` defines it; `NEVER` where no candidate is right.

    Args:
        labels: (M,) of all candidates.
        probabilities: (M,).
        hits: (M,) whether each is right.
        positives: (V,) how many documents each label is true for.
    """
    by_label = np.lexsort((-probabilities, labels))
    label = labels[by_label]
    first = np.append(True, label[1:] != label[:-1])[: label.size]
    start = np.flatnonzero(first)[np.cumsum(first) - 1]
    right = np.cumsum(hits[by_label]).astype(np.float64)
    right -= right[start] - hits[by_label][start]
    f1 = 2 * right / (np.arange(label.size) - start + 1 + positives[label])
    # What taking each candidate after all more probable ones adds: to its label's F1, and to the labels that count.
    gain, new = np.zeros(label.size), np.zeros(label.size)
    gain[by_label] = np.where(first, f1, np.diff(f1, prepend=0.0))
    new[by_label] = first & (positives[label] == 0)
    cuts = _cuts(probabilities)
    total, given_in_vain = (np.append(0.0, np.cumsum(each[cuts.order])[cuts.taken - 1]) for each in (gain, new))
    macro = total / np.maximum((positives > 0).sum() + given_in_vain, 1)
    return float(np.append(NEVER, cuts.thresholds)[np.argmax(macro)])


def precision_thresholds(probabilities: Float64, hits: Bool, wanted: Sequence[float]) -> list[float]:
    """The least threshold for each wanted precision, rising with it; `NEVER` where it is not reached.

    Args:
        probabilities: (M,) of all candidates.
        hits: (M,) whether each is right.
        wanted: rising shares.
    """
    cuts = _cuts(probabilities)
    precision = np.cumsum(hits[cuts.order])[cuts.taken - 1] / cuts.taken
    found = []
    for share in wanted:
        reached = np.flatnonzero((precision >= share) & (cuts.taken >= LEAST_GIVEN))
        found.append(float(cuts.thresholds[reached[-1]]) if reached.size else NEVER)
    return found


def _cuts(probabilities: Float64) -> _Cuts:
    order = np.argsort(-probabilities, kind="stable")
    falling = np.append(probabilities[order], 0.0)
    taken = np.flatnonzero(np.append(falling[:-2] > falling[1:-1], True)[: order.size]) + 1
    return _Cuts(order, taken, (falling[taken - 1] + falling[taken]) / 2)
