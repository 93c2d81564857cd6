"""What is measured of a ranker on a split, and what it has over another: figures with intervals, and their JSON.

All figures are fractions.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from cascadexml.checked_json import number, whole

Interval = tuple[float, float]
"""The lower and the upper end of a 95 % interval."""


@dataclass(frozen=True)
class BinReport:
    """One ranker's figures on the labels of one bin.

    Attributes:
        labels: how many labels the bin has.
        labels_true: those true for some document.
        pairs: (document, label) pairs that are true.
        figures: "R@k", "P@k_part" and "coverage@k" by name; empty without pairs.
        intervals: of the first two.
    """

    labels: int
    labels_true: int
    pairs: int
    figures: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """One flat object; "intervals" is in it where there are pairs."""
        counts = {"labels": self.labels, "labels_true": self.labels_true, "pairs": self.pairs}
        return counts | dict(self.figures) | ({"intervals": ends_to_json(self.intervals)} if self.pairs else {})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        counts = {name: whole(content, name) for name in ("labels", "labels_true", "pairs")}
        figures = {name: number(content, name) for name in content if name not in {*counts, "intervals"}}
        return cls(**counts, figures=figures, intervals=ends_from_json(content.get("intervals", {})))


@dataclass(frozen=True)
class Report:
    """One ranker's figures on one split.

    Attributes:
        figures: by name, such as "nDCG@5" and "micro_F1".
        intervals: 95 %, of those that are ratios of sums over documents: all but coverage and macro-F1.
        bins: by label frequency.
    """

    figures: Mapping[str, float]
    intervals: Mapping[str, Interval]
    bins: Mapping[str, BinReport] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """{"figures": {name: value}, "intervals": {name: [low, high]}, "bins": {bin: …}}."""
        return {
            "figures": dict(self.figures),
            "intervals": ends_to_json(self.intervals),
            "bins": {name: each.to_json() for name, each in self.bins.items()},
        }


@dataclass(frozen=True)
class MetricDifference:
    """What one ranker has over another in one figure, on the same documents: `metrics.Difference` of a single one."""

    difference: float
    low: float
    high: float
    p_value: float

    def to_json(self) -> dict[str, float]:
        """{"difference", "low", "high", "p_value"}."""
        return asdict(self)


def ends_to_json(intervals: Mapping[str, Interval]) -> dict[str, list[float]]:
    """Intervals as lists of two numbers."""
    return {name: list(ends) for name, ends in intervals.items()}


def ends_from_json(content: Mapping[str, Any]) -> dict[str, Interval]:
    """Read what `ends_to_json` gave."""
    ends = {name: {"low": low, "high": high} for name, (low, high) in content.items()}
    return {name: (number(each, "low"), number(each, "high")) for name, each in ends.items()}
