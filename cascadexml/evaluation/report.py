"""The evaluation on test as one document: what metrics.json holds, and how tables and pictures show it.

The keys of metrics.json stand here only. All figures are fractions. To import this costs no torch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from cascadexml.bundle import beside
from cascadexml.checked_json import number, object_of, read_json, whole
from cascadexml.errors import DataError
from cascadexml.metrics.report import BinReport, MetricDifference, Report, ends_from_json, ends_to_json

OURS = "CascadeXML"
"""What tables and pictures call the trained model, beside its baselines."""
CAPTIONS = {
    "cascade": "network alone",
    "linear": "linear classifiers",
    "vectors": "nearest vectors",
    "names": "label names",
    "tfidf_knn": "TF-IDF nearest neighbours",
    "popularity": "label popularity",
}
"""A source of the blend, or a baseline → what readers see."""
HEADLINE = "nDCG@5"
"""The figure shown where there is room for one."""
HEADLINES = ("P@1", "P@3", "P@5", "nDCG@5", "nDCG@20", "R@20", "PSP@1", "PSP@5")
"""The figures shown where there is no room for all."""
FAMILIES_SHOWN = ("P", "R", "nDCG", "PSP")
"""Families of metrics shown at every cut-off, by the model card and the judgement."""


def caption(ranker: str) -> str:
    """What readers see for a ranker's name."""
    return CAPTIONS.get(ranker, ranker)


def in_a_line(figures: Mapping[str, float]) -> str:
    """The headlines of a model and its figure at the threshold, in one line of fractions."""
    shown = (*HEADLINES, "micro_F1")
    return ", ".join(f"{name} {figures[name]:.4f}" for name in shown if name in figures)


@dataclass(frozen=True)
class CalibrationReport:
    """The calibration and what it mends: the expected calibration error of the first five suggestions on test.

    Attributes:
        slope, intercept, bend, mass, threshold: as of `Calibration`.
        error: after calibration.
        error_of_scores: before.
    """

    slope: float
    intercept: float
    bend: float
    mass: float
    threshold: float
    error: float
    error_of_scores: float

    def to_json(self) -> dict[str, float]:
        """{"slope", "intercept", "bend", "mass", "threshold", "ECE@5", "ECE@5_of_scores"}."""
        content = asdict(self)
        return {_CALIBRATION_KEYS.get(name, name): value for name, value in content.items()}

    @classmethod
    def from_json(cls, content: Mapping[str, float]) -> Self:
        """Read what `to_json` gave."""
        return cls(**{each.name: number(content, _CALIBRATION_KEYS.get(each.name, each.name)) for each in fields(cls)})


_CALIBRATION_KEYS = {"error": "ECE@5", "error_of_scores": "ECE@5_of_scores"}


@dataclass(frozen=True)
class Attained:
    """What the labels of one band attain on test with at least a probability.

    Attributes:
        threshold: that probability; None where the precision was not reached on dev, and no label is given.
        given: labels given, over all documents.
        precision: the share of these that is right; 0 where none are given.
        recall: of the true (document, label) pairs of the band the share given.
    """

    threshold: float | None
    given: int
    precision: float
    recall: float

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` gave."""
        threshold = None if content["threshold"] is None else number(content, "threshold", 0, 1)
        return cls(threshold, whole(content, "given"), number(content, "precision"), number(content, "recall"))


@dataclass(frozen=True)
class ChoicesReport:
    """What the thresholds chosen on dev for other ends than micro-F1 attain on test.

    Attributes:
        macro_F1: at the threshold for macro-F1.
        precision: wanted precision, as text → band of label frequency → what is attained.
    """

    macro_F1: float  # noqa: N815
    precision: Mapping[str, Mapping[str, Attained]]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `dataclasses.asdict` gave."""
        return cls(
            number(content, "macro_F1"),
            {
                wanted: {band: Attained.from_json(each) for band, each in bands.items()}
                for wanted, bands in content["precision"].items()
            },
        )


@dataclass(frozen=True)
class EvaluationReport:
    """The model and its baselines on the same test documents.

    Attributes:
        model: of the model on test.
        baselines: by ranker, measured alike.
        differences: baseline → metric → the model minus the baseline.
        dev: the model's figures on dev, which chose checkpoint and threshold; empty without dev.
        calibration: None where it was not measured.
        choices: None where there was no dev to choose on.
    """

    model: Report = Report({}, {})
    baselines: Mapping[str, Report] = field(default_factory=dict)
    differences: Mapping[str, Mapping[str, MetricDifference]] = field(default_factory=dict)
    dev: Mapping[str, float] = field(default_factory=dict)
    calibration: CalibrationReport | None = None
    choices: ChoicesReport | None = None

    @property
    def rankers(self) -> dict[str, Report]:
        """The model, as `OURS`, and the baselines."""
        return {OURS: self.model, **self.baselines}

    def to_json(self) -> dict[str, Any]:
        """What metrics.json holds."""
        model, others = self.model, self.baselines
        content = {
            "test": dict(model.figures),
            "intervals": ends_to_json(model.intervals),
            "bins": _bins_to_json(model.bins),
            "baselines": {name: dict(each.figures) for name, each in others.items()},
            "baseline_intervals": {name: ends_to_json(each.intervals) for name, each in others.items()},
            "baseline_bins": {name: _bins_to_json(each.bins) for name, each in others.items()},
            "differences": {
                name: {metric: found.to_json() for metric, found in each.items()}
                for name, each in self.differences.items()
            },
            "dev": dict(self.dev),
            "calibration": {} if self.calibration is None else self.calibration.to_json(),
        }
        return content if self.choices is None else {**content, "choices": asdict(self.choices)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave; parts that were not measured may be missing.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it is something else.
        """
        intervals, bins = content.get("baseline_intervals", {}), content.get("baseline_bins", {})
        return cls(
            _report(content.get("test", {}), content.get("intervals", {}), content.get("bins", {})),
            {
                name: _report(figures, intervals.get(name, {}), bins.get(name, {}))
                for name, figures in content.get("baselines", {}).items()
            },
            {
                name: {metric: MetricDifference(**_numbers(found)) for metric, found in each.items()}
                for name, each in content.get("differences", {}).items()
            },
            _numbers(content.get("dev", {})),
            CalibrationReport.from_json(content["calibration"]) if content.get("calibration") else None,
            ChoicesReport.from_json(content["choices"]) if content.get("choices") else None,
        )

    def save(self, path: Path) -> None:
        """Write metrics.json."""
        with beside(path) as new:
            new.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read metrics.json.

        Raises:
            DataError: it is missing, or is no evaluation.
        """
        try:
            return cls.from_json(object_of(read_json(path)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} cannot be read as an evaluation ({error!r}): run dvc repro evaluate.") from None


def _report(figures: Mapping[str, float], intervals: Mapping[str, Any], bins: Mapping[str, Any]) -> Report:
    found = {name: BinReport.from_json(each) for name, each in bins.items()}
    return Report(_numbers(figures), ends_from_json(intervals), found)


def _numbers(content: Mapping[str, Any]) -> dict[str, float]:
    return {name: number(content, name) for name in object_of(content)}


def _bins_to_json(bins: Mapping[str, BinReport]) -> dict[str, Any]:
    return {name: each.to_json() for name, each in bins.items()}
