"""From scores to probabilities that can be believed, and the threshold above which a label is worth giving.

Logistic regression on dev's first suggestions. A score s becomes p with

    logit p = slope · logit s + bend · ln s + mass · ln m + intercept,

where m is what the first scores of the same document add up to. The first and the last term are Platt's (1999), `bend`
makes them the three parameters of beta calibration (Kull, Silva Filho and Flach, 2017), whose two ends bend apart, and
`mass` tells a document with many likely labels, of which few can be right together, from one with a single such. All
but the first two terms are the same for all labels of a document, and these rise with s: labels never change places.
"""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse, special

from cascadexml.bundle import Format, beside
from cascadexml.checked_json import number, object_of, read_json, whole
from cascadexml.errors import FormatError, PredictionError
from cascadexml.evaluation.choices import Choices
from cascadexml.evaluation.report import CalibrationReport
from cascadexml.evaluation.thresholds import best_threshold
from cascadexml.metrics import Bool, Float64, hit_matrix
from cascadexml.ranking import NO_LABEL, Ranking

Threshold = float | Literal["tuned", "macro"] | None
"""The least probability of a label that is given; "tuned" and "macro" are chosen on dev, None gives all."""

FORMAT = Format("cascadexml.calibration", 2)

PLACES = 10
"""Suggestions that the calibration is fitted on and whose scores make up the mass: about what a user is shown. The many
candidates behind them are nearly all wrong, and fitted on these as well the first ones are believed too much."""
MOST_PLACES = 10_000
"""That a file may name: a ranker is asked for so many labels at least."""
_LEAST_SLOPE = 1e-3
_STEEPEST = 1e100
"""Beyond this a product with a logit may be no number."""
_DOCUMENTS_A_CHUNK = 1 << 14

Int64 = npt.NDArray[np.int64]

log = logging.getLogger(__name__)


class Reliability(NamedTuple):
    """Candidates in equal bins of probability: (bins,) mean probability, share right (both 0 where empty), size."""

    probability: Float64
    right: Float64
    size: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """How a score becomes a probability, and from which probability on a label is worth giving.

    Attributes:
        slope, intercept, bend, mass: of the logit of p; slope and slope + bend are above 0.
        places: how many of a document's first scores make up its mass.
        threshold: the least p of a label worth giving, for the greatest micro-F1.
        choices: thresholds for other ends; None where there was no dev to choose them on.
    """

    slope: float = 1.0
    intercept: float = 0.0
    threshold: float = 0.5
    choices: Choices | None = None
    bend: float = 0.0
    mass: float = 0.0
    places: int = PLACES

    def log_odds(self, scores: npt.NDArray[np.floating]) -> Float64:
        """(N, K): the logits of the probabilities that `apply` gives."""
        low, high, mass = _terms(scores, self.places)
        return np.asarray((self.slope + self.bend) * low + self.slope * high + self.mass * mass + self.intercept)

    def apply(self, scores: npt.NDArray[np.floating]) -> Float64:
        """Turn the scores of N documents into probabilities, in the same order.

        Args:
            scores: (N, K) in [0, 1], falling along each row, the first `places` of a document among them; -inf (no
                label) becomes 0.
        """
        probabilities = np.empty(scores.shape)
        for start in range(0, len(scores), _DOCUMENTS_A_CHUNK):
            rows = slice(start, start + _DOCUMENTS_A_CHUNK)
            some = scores[rows]
            probabilities[rows] = np.where(np.isneginf(some), 0.0, special.expit(self.log_odds(some)))
        return probabilities

    def calibrated(self, ranking: Ranking, K: int | None = None) -> Ranking:
        """The first K labels, by default all, in the same order, with probabilities for scores.

        Args:
            ranking: (N, at least `places`), or all that the ranker has.
            K: how many labels to keep.
        """
        labels, scores = ranking.labels[:, :K], self.apply(ranking.scores)[:, :K].astype(np.float32)
        scores[labels == NO_LABEL] = -np.inf
        return Ranking(labels, scores)

    def least(self, threshold: Threshold, min_precision: float | None, uses: Int64 | None) -> Float64:
        """The least probability with which a label is given: () for all labels, or (V,) one for each.

        Args:
            threshold: in [0, 1]; "tuned", the one for micro-F1; "macro", the one for macro-F1; None gives all.
            min_precision: in (0, 1]: only labels that at their band's frequency reached so much on dev. Where a
                threshold is given too, both hold.
            uses: (V,) documents of train that have each label, which `min_precision` needs.

        Raises:
            ValueError: a value is out of range.
            PredictionError: what is asked for was not chosen, or not reached, on dev.
        """
        if isinstance(threshold, str):
            wrong = threshold not in ("tuned", "macro")
        else:
            wrong = threshold is not None and not 0 <= threshold <= 1
        if wrong:
            raise ValueError(
                f"threshold is {threshold!r}, expected a probability from 0 to 1, 'tuned', 'macro' or None"
            )
        if min_precision is not None and not 0 < min_precision <= 1:
            raise ValueError(f"min_precision is {min_precision}, expected a share above 0 and at most 1, or None")
        if threshold == "macro" or min_precision is not None:
            return self._chosen(threshold, min_precision, uses)
        return np.array(self.threshold if threshold == "tuned" else threshold or 0.0)

    def _chosen(self, threshold: Threshold, min_precision: float | None, uses: Int64 | None) -> Float64:
        if self.choices is None:
            raise PredictionError(
                "This model has no thresholds for macro-F1 or a precision: it was trained without a dev split; give a "
                "probability instead."
            )
        least = np.array(self.choices.macro) if threshold == "macro" else self.least(threshold, None, uses)
        if min_precision is None:
            return least
        if uses is None:
            raise PredictionError(
                "This predictor does not know how often train uses each label: load it from an artifact or give `uses`."
            )
        return np.maximum(least, self.choices.for_precision(min_precision, uses))

    def save(self, path: Path) -> None:
        """Write to `path` as JSON."""
        choices = None if self.choices is None else self.choices.to_json()
        content = {"kind": FORMAT.kind, "version": FORMAT.version, **vars(self), "choices": choices}
        with beside(path) as new:
            new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            FormatError: the file is missing, damaged, no calibration, or of another version.
        """
        try:
            content = object_of(read_json(path))
            FORMAT.check(content.get("kind"), content.get("version"), path)
            slope, intercept, bend, mass = (
                number(content, name, -_STEEPEST, _STEEPEST) for name in ("slope", "intercept", "bend", "mass")
            )
            threshold, places = number(content, "threshold", 0, 1), whole(content, "places", 1, MOST_PLACES)
            if min(slope, slope + bend) <= 0:
                raise ValueError(f"slope is {slope:g} and bend {bend:g}, expected a slope and a sum above 0")
            found = cls(slope, intercept, threshold, bend=bend, mass=mass, places=places)
            choices = None if content.get("choices") is None else Choices.from_json(content["choices"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"{path} cannot be read as a calibration ({error}): make it again.") from None
        return replace(found, choices=choices)


def fit_calibration(ranking: Ranking, Y: sparse.csr_matrix) -> Calibration:
    """Fit by maximum likelihood on the first `PLACES` suggestions, and choose the threshold of the greatest micro-F1.

    The targets are smoothed as in Platt (1999), "Probabilistic outputs for support vector machines", section 2.2. The
    threshold is chosen among all places; labels of Y outside them count as missed in the micro-F1.

    Where there is nothing to fit on (no document, no hit or nothing but hits) scores are taken as they are, with
    threshold 0.5, and a warning is logged.

    Args:
        ranking: (N, K) of dev, with scores in [0, 1].
        Y: (N, len(vocabulary)) true labels of dev.
    """
    places = min(PLACES, ranking.shape[1])
    candidates, right = ranking.labels != NO_LABEL, hit_matrix(ranking, Y)
    first = candidates & (np.arange(ranking.shape[1]) < places)
    hits = right[first]
    if hits.all() or not hits.any():
        log.warning(
            "No calibration: of the first %d suggestions on dev %d are right; scores are used as they are.",
            hits.size,
            hits.sum(),
        )
        return Calibration()
    shown = first[:, :places]
    terms = [np.broadcast_to(term, shown.shape)[shown] for term in _terms(ranking.scores[:, :places], places)]
    low, high, mass, intercept = _fitted(np.column_stack([*terms, np.ones(hits.size)]), hits)
    found = Calibration(slope=high, intercept=intercept, bend=low - high, mass=mass, places=places)
    probabilities = found.apply(ranking.scores)[candidates]
    return replace(found, threshold=best_threshold(probabilities, right[candidates], positives=Y.nnz))


def suggestions(ranking: Ranking, Y: sparse.csr_matrix, k: int) -> tuple[Float64, Bool]:
    """The scores (M,) of the first k labels of all documents, and whether each is right (M,)."""
    given = ranking.labels[:, :k] != NO_LABEL
    return ranking.scores[:, :k][given].astype(np.float64), hit_matrix(ranking, Y, k)[given]


def reliability(probabilities: Float64, hits: Bool, bins: int = 10) -> Reliability:
    """Compare probabilities (M,) with how often they are right (M,), in `bins` bins of equal width."""
    which = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    count = np.bincount(which, minlength=bins)
    filled = np.maximum(count, 1)
    return Reliability(
        np.bincount(which, weights=probabilities, minlength=bins) / filled,
        np.bincount(which, weights=hits, minlength=bins) / filled,
        count,
    )


def expected_calibration_error(probabilities: Float64, hits: Bool, bins: int = 10) -> float:
    """Mean distance between probability and share right, weighted by bin size (Guo et al., 2017, equation 3)."""
    table = reliability(probabilities, hits, bins)
    return float(np.sum(table.size * np.abs(table.probability - table.right)) / max(table.size.sum(), 1))


def calibration_report(calibration: Calibration, ranking: Ranking, Y: sparse.csr_matrix) -> CalibrationReport:
    """The calibration beside its error on the first five suggestions; (N, K) ranking, scores before calibration."""
    return CalibrationReport(
        slope=calibration.slope,
        intercept=calibration.intercept,
        bend=calibration.bend,
        mass=calibration.mass,
        threshold=calibration.threshold,
        error=expected_calibration_error(*suggestions(calibration.calibrated(ranking), Y, 5)),
        error_of_scores=expected_calibration_error(*suggestions(ranking, Y, 5)),
    )


def _terms(scores: npt.NDArray[np.floating], places: int) -> tuple[Float64, Float64, Float64]:
    """(N, K) ln s, (N, K) -ln(1 - s), and (N, 1) ln m of scores (N, K), of which the first `places` add up to m."""
    # A float32 just below 1 rounds to 1: the bounds keep its logit finite.
    s = np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-7)
    m = np.log(s[:, :places].sum(axis=1, keepdims=True, initial=1e-12))
    return np.log(s), -np.log1p(-s), m


def _fitted(X: Float64, hits: Bool) -> list[float]:
    """(4,) weights of a design (M, 4); the first two, which decide the order, stay above 0."""
    right, wrong = int(hits.sum()), int((~hits).sum())
    target = np.where(hits, (right + 1) / (right + 2), 1 / (wrong + 2))

    def loss(weights: Float64) -> tuple[float, Float64]:
        z = X @ weights
        return float(np.logaddexp(0, z).sum() - target @ z) / z.size, X.T @ (special.expit(z) - target) / z.size

    fit = optimize.minimize(
        loss,
        np.array([1.0, 1.0, 0.0, 0.0]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(_LEAST_SLOPE, None)] * 2 + [(None, None)] * 2,
        options={"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-7},
    )
    weights: list[float] = fit.x.tolist()
    return weights
