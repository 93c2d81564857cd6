"""What is said of a batch in the end: the verdict, its checks, its quality. The keys of verdict.json stand here only.

`cascadexml.monitoring.comparison` makes one. To import this costs no torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from cascadexml.errors import DataError

Kind = Literal["text", "vocabulary", "embedding", "score", "label", "metadata", "quality", "validity"]
Outcome = Literal["stable", "drift", "quarantined"]


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: what was compared.
        kind: what sort of drift it tells of; "validity" checks decide on quarantine.
        statistic: what `value` is.
        value: the size of the effect.
        threshold: the check fails only beyond it.
        p_value: how likely so large an effect is without drift; None where no chance is involved.
        failed: the effect is beyond the threshold and, where there is a p-value, significant.
        reference: the reference's own figure, such as a mean; None where there is no one figure.
        batch: the same of the batch.
    """

    name: str
    kind: Kind
    statistic: str
    value: float
    threshold: float
    p_value: float | None
    failed: bool
    reference: float | None = None
    batch: float | None = None

    def __str__(self) -> str:
        chance = "" if self.p_value is None else f", p = {self.p_value:.2g}"
        means = "" if self.reference is None else f" (batch {self.batch:.4g}, reference {self.reference:.4g})"
        return f"{self.name}: {self.statistic} {self.value:.3g}, threshold {self.threshold:g}{chance}{means}"


@dataclass(frozen=True)
class BatchSummary:
    """Which batch, and how many of its records were read, accepted, refused by the row rules, and have labels."""

    id: str
    source: str
    records: int
    accepted: int
    refused: int
    labelled: int


@dataclass(frozen=True)
class MonitoredModel:
    """Which model's reference the batch was compared with; `fingerprint` as of `ModelIdentity`."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Quality:
    """One metric on batch and reference, with bootstrap 95 % intervals."""

    batch: float
    reference: float
    low: float
    high: float
    reference_low: float
    reference_high: float


@dataclass(frozen=True)
class UnseenLabels:
    """Label uses of the batch that train does not have: their share, their number, and the commonest ids."""

    share: float
    uses: int
    ids: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a batch; equal inputs give an equal one.

    Attributes:
        outcome: "stable", "drift" or "quarantined".
        reasons: sentences.
        batch: which.
        model: against whose reference.
        checks: all that were made.
        quality: metric → figures; None without labels, or in quarantine.
        unseen_labels: of the batch.
    """

    outcome: Outcome
    reasons: list[str]
    batch: BatchSummary
    model: MonitoredModel
    checks: list[Check]
    quality: Mapping[str, Quality] | None
    unseen_labels: UnseenLabels

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return [check.name for check in self.checks if check.failed]

    def rounded(self) -> Self:
        """With all figures to six significant digits: stable over library versions."""
        quality = None if self.quality is None else {name: _rounded(each) for name, each in self.quality.items()}
        return replace(
            self,
            checks=[_rounded(check) for check in self.checks],
            quality=quality,
            unseen_labels=_rounded(self.unseen_labels),
        )

    def to_json(self) -> dict[str, Any]:
        """What verdict.json holds."""
        content = asdict(self)
        return {"verdict": content.pop("outcome"), **content}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises:
            DataError: it is something else.
        """
        try:
            quality = content["quality"]
            return cls(
                outcome=content["verdict"],
                reasons=list(content["reasons"]),
                batch=BatchSummary(**content["batch"]),
                model=MonitoredModel(**content["model"]),
                checks=[Check(**check) for check in content["checks"]],
                quality=None if quality is None else {name: Quality(**each) for name, each in quality.items()},
                unseen_labels=UnseenLabels(**content["unseen_labels"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"This is no verdict ({error!r}): expected what verdict.json holds.") from None


def _rounded(part: Any) -> Any:
    """A dataclass with its floats to six significant digits."""
    figures = {name: value for name, value in vars(part).items() if isinstance(value, float)}
    return replace(part, **{name: float(f"{value:.6g}") for name, value in figures.items()})
