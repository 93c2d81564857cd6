"""From scores to probabilities that can be believed, and the threshold above which a label is worth giving.

Platt scaling on the logit of the score, fitted on dev's candidates; the order of labels never changes.
"""

import json
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse, special

from cascadexml.bundle import Format, beside
from cascadexml.errors import FormatError
from cascadexml.evaluation.report import CalibrationReport
from cascadexml.metrics import Bool, Float64, hit_matrix
from cascadexml.ranking import NO_LABEL, Ranking

FORMAT = Format("cascadexml.calibration", 1)

_LEAST_SLOPE = 1e-3

log = logging.getLogger(__name__)


class Reliability(NamedTuple):
    """Candidates in equal bins of probability: (bins,) mean probability, share right (both 0 where empty), size."""

    probability: Float64
    right: Float64
    size: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Calibration:
    """p = sigmoid(slope · logit(score) + intercept), slope > 0; `threshold`: the least p of a label worth giving."""

    slope: float = 1.0
    intercept: float = 0.0
    threshold: float = 0.5

    def apply(self, scores: npt.NDArray[np.floating]) -> Float64:
        """Turn scores in [0, 1] of any shape into probabilities, in the same order; -inf (no label) becomes 0."""
        return np.where(np.isneginf(scores), 0.0, special.expit(self.slope * _logit(scores) + self.intercept))

    def calibrated(self, ranking: Ranking) -> Ranking:
        """The same labels in the same order, with probabilities for scores."""
        scores = self.apply(ranking.scores)
        scores[ranking.labels == NO_LABEL] = -np.inf
        return Ranking(ranking.labels, scores.astype(np.float32))

    def save(self, path: Path) -> None:
        """Write to `path` as JSON."""
        content = {"kind": FORMAT.kind, "version": FORMAT.version, **asdict(self)}
        with beside(path) as new:
            new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read what `save` wrote.

        Raises:
            FormatError: the file is missing, damaged, no calibration, or of another version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            FORMAT.check(content["kind"], content["version"], path)
            slope, intercept, threshold = (content[name] for name in ("slope", "intercept", "threshold"))
            numbers = all(
                type(value) in (int, float) and math.isfinite(value) for value in (slope, intercept, threshold)
            )
            if not numbers or slope <= 0 or not 0 <= threshold <= 1:
                raise ValueError("a value is out of range")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{path} cannot be read as a calibration ({error!r}): make it again.") from None
        return cls(float(slope), float(intercept), float(threshold))


def fit_calibration(ranking: Ranking, Y: sparse.csr_matrix) -> Calibration:
    """Fit slope and intercept by maximum likelihood, and choose the threshold of the greatest micro-F1.

    The candidates are all places of the ranking, with Platt's smoothed targets (Platt, 1999, "Probabilistic outputs
    for support vector machines", section 2.2). Labels of Y outside the candidates count as missed in the micro-F1.
    Where there is nothing to fit on (no document, no hit or nothing but hits) scores are taken as they are, with
    threshold 0.5, and a warning is logged.

    Args:
        ranking: (N, K) of dev, with scores in [0, 1].
        Y: (N, len(vocabulary)) true labels of dev.
    """
    candidates = ranking.labels != NO_LABEL
    hits = hit_matrix(ranking, Y)[candidates]
    scores = ranking.scores[candidates]
    if hits.all() or not hits.any():
        log.warning(
            "No calibration: of %d candidates on dev %d are right; scores are used as they are.", hits.size, hits.sum()
        )
        return Calibration()
    slope, intercept = _platt(_logit(scores), hits)
    probabilities = Calibration(slope, intercept).apply(scores)
    return Calibration(slope, intercept, best_threshold(probabilities, hits, positives=Y.nnz))


def best_threshold(probabilities: Float64, hits: Bool, positives: int) -> float:
    """The threshold of the greatest micro-F1, half-way between the last candidate taken and the first left.

    Args:
        probabilities: (M,) of all candidates.
        hits: (M,) whether each is right.
        positives: how many (document, label) pairs are true, candidates or not.
    """
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    right = np.cumsum(hits[order])
    f1 = 2 * right / (np.arange(1, order.size + 1) + positives)
    # Candidates of equal probability are taken together or not at all.
    last_of_tie = np.append(falling[:-1] > falling[1:], True)
    best = int(np.argmax(np.where(last_of_tie, f1, -1.0)))
    following = falling[best + 1] if best + 1 < order.size else 0.0
    return float((falling[best] + following) / 2)


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
    scores, hits = suggestions(ranking, Y, 5)
    return CalibrationReport(
        **asdict(calibration),
        error=expected_calibration_error(calibration.apply(scores), hits),
        error_of_scores=expected_calibration_error(scores, hits),
    )


def _logit(scores: npt.NDArray[np.floating]) -> Float64:
    # A float32 just below 1 rounds to 1: the bounds keep its logit finite.
    return np.asarray(special.logit(np.clip(scores.astype(np.float64), 1e-12, 1 - 1e-7)))


def _platt(logits: Float64, hits: Bool) -> tuple[float, float]:
    right, wrong = int(hits.sum()), int((~hits).sum())
    target = np.where(hits, (right + 1) / (right + 2), 1 / (wrong + 2))

    def loss(parameters: Float64) -> tuple[float, Float64]:
        z = parameters[0] * logits + parameters[1]
        residual = special.expit(z) - target
        gradient = np.array([residual @ logits, residual.sum()])
        return float(np.logaddexp(0, z).sum() - target @ z) / z.size, gradient / z.size

    fit = optimize.minimize(
        loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(_LEAST_SLOPE, None), (None, None)]
    )
    return float(fit.x[0]), float(fit.x[1])
