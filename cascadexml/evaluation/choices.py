"""Choices chosen on dev: from which probability on a label is given, for macro-F1 or for a wanted precision.

For a precision there is a threshold by band of label frequency. For macro-F1 there is one for all: chosen by band it
fits dev better and other documents worse, since a band has few labels that dev uses often.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.checked_json import whole
from cascadexml.errors import PredictionError
from cascadexml.evaluation.report import Attained, ChoicesReport
from cascadexml.evaluation.thresholds import NEVER, macro_threshold, precision_thresholds
from cascadexml.metrics import Float64, bins_by_uses, hit_matrix, macro_f1
from cascadexml.ranking import NO_LABEL, Ranking

BANDS = ("head", "torso", "tail")
"""Labels by their uses in train, as `metrics.frequency_bins` has them; those without a use are in the tail here."""
PRECISIONS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""The precisions for which thresholds are kept; what lies between two takes the higher one's."""

Int64 = npt.NDArray[np.int64]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choices:
    """Thresholds; `NEVER` where labels are not worth giving.

    Attributes:
        torso, head: the bounds of the bands, as of `evaluate` in the settings.
        macro: for the greatest macro-F1.
        precision: by band of label frequency, for each of `PRECISIONS`, rising.
    """

    torso: int
    head: int
    macro: float
    precision: Mapping[str, tuple[float, ...]]

    def at_precision(self, wanted: float) -> dict[str, float]:
        """Band → threshold for a wanted precision, of which that of the next higher one in `PRECISIONS` is taken."""
        at = next((i for i, precision in enumerate(PRECISIONS) if precision >= wanted), None)
        return {band: NEVER if at is None else self.precision[band][at] for band in BANDS}

    def for_precision(self, wanted: float, uses: Int64) -> Float64:
        """(V,) the least probability of each label for a wanted precision; a band that did not reach it is logged.

        Args:
            wanted: in (0, 1].
            uses: (V,) documents of train that have each label.

        Raises:
            PredictionError: no band reached it on dev.
        """
        found = self.at_precision(wanted)
        without = [band for band in BANDS if found[band] == NEVER]
        if len(without) == len(BANDS):
            most = max((p for p in PRECISIONS if min(self.at_precision(p).values()) < NEVER), default=None)
            remedy = "give a threshold instead" if most is None else f"ask for at most {most:g}"
            raise PredictionError(f"A precision of {wanted:g} was not reached on dev by labels of any band: {remedy}.")
        if without:
            log.warning(
                "A precision of %g was not reached on dev by %s labels: none of them are given.",
                wanted,
                " and ".join(without),
            )
        return np.array([found[band] for band in BANDS])[band_of(uses, self.torso, self.head)]

    def to_json(self) -> dict[str, Any]:
        """{"torso", "head", "macro", "precision": {band: {precision: threshold}}}; null is never."""
        return {
            "torso": self.torso,
            "head": self.head,
            "macro": _or_null(self.macro),
            "precision": {
                band: {f"{p:g}": _or_null(t) for p, t in zip(PRECISIONS, self.precision[band], strict=True)}
                for band in BANDS
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        torso, head = whole(content, "torso", 1), whole(content, "head", 1)
        if torso > head:
            raise ValueError(f"the bounds of its bands are {torso} and {head}, expected whole numbers that rise")
        precision = {
            band: tuple(_threshold(content["precision"][band][f"{p:g}"]) for p in PRECISIONS) for band in BANDS
        }
        if any(list(thresholds) != sorted(thresholds) for thresholds in precision.values()):
            raise ValueError("a threshold falls where the precision rises")
        return cls(torso, head, _threshold(content["macro"]), precision)


def choose(ranking: Ranking, Y: sparse.csr_matrix, uses: Int64, torso: int, head: int) -> Choices:
    """Choose on dev.

    Args:
        ranking: (N, K) of dev, with probabilities for scores.
        Y: (N, V) true labels of dev.
        uses: (V,) documents of train that have each label.
        torso, head: the bounds of the bands.
    """
    band, positives = band_of(uses, torso, head), np.bincount(Y.indices, minlength=Y.shape[1])
    given = ranking.labels != NO_LABEL
    labels, hits = ranking.labels[given], hit_matrix(ranking, Y)[given]
    probabilities = ranking.scores[given].astype(np.float64)
    parts = {name: band[labels] == i for i, name in enumerate(BANDS)}
    return Choices(
        torso,
        head,
        macro_threshold(labels, probabilities, hits, positives),
        {
            name: tuple(precision_thresholds(probabilities[mine], hits[mine], PRECISIONS))
            for name, mine in parts.items()
        },
    )


def choices_report(choices: Choices, ranking: Ranking, Y: sparse.csr_matrix, uses: Int64) -> ChoicesReport:
    """What the choices attain; arguments as of `choose`, on test."""
    band = band_of(uses, choices.torso, choices.head)
    pairs = np.bincount(band[Y.indices], minlength=len(BANDS))
    right, places = hit_matrix(ranking, Y), band[ranking.labels]

    def attained(i: int, threshold: float) -> Attained:
        given = (places == i) & (ranking.labels != NO_LABEL) & (ranking.scores >= np.float64(threshold))
        count, hits = int(given.sum()), int(right[given].sum())
        return Attained(_or_null(threshold), count, hits / max(count, 1), hits / max(int(pairs[i]), 1))

    return ChoicesReport(
        macro_f1(ranking, Y, choices.macro),
        {
            f"{wanted:g}": {name: attained(i, choices.at_precision(wanted)[name]) for i, name in enumerate(BANDS)}
            for wanted in PRECISIONS
        },
    )


def band_of(uses: Int64, torso: int, head: int) -> Int64:
    """(V,) the place in `BANDS` of labels with (V,) uses in train."""
    bins = bins_by_uses(uses, torso, head)
    return np.select([bins["head"], bins["torso"]], [0, 1], 2)


def _or_null(threshold: float) -> float | None:
    return None if threshold == NEVER else threshold


def _threshold(value: object) -> float:
    if value is None:
        return NEVER
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= 1:  # type: ignore[arg-type, operator]
        raise ValueError(f"{value!r} is no threshold")
    return float(value)  # type: ignore[arg-type]
