"""Section `judge` of params.yaml."""

from collections.abc import Iterator
from dataclasses import dataclass

from cascadexml.config.knobs import knob
from cascadexml.config.metric_names import guard_of
from cascadexml.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """When a challenger takes the champion's place."""

    metric: str = knob(
        "nDCG@5",
        meaning="metric on test that it must be better on: P, R, F1, nDCG, PSP or PSnDCG at any k up to "
        "`evaluate.top_k`",
    )
    margin: float = knob(0.0, low=0.0, high=1.0, meaning="by more than this, as a fraction")
    confidence: float = knob(0.95, low=0.5, high=0.999, meaning="with this confidence, one-sided")
    guards: list[str] = knob(
        ["PSP@5", "tail:R@20"],
        meaning="metrics that may not fall; `tail:R@20` is the recall on one bin of labels (`head`, `torso`, `tail`, "
        "`unseen`)",
    )
    max_fall: float = knob(
        0.01,
        low=0.0,
        high=1.0,
        meaning="how far a guard or a slice may fall, as a fraction, unless its 95 % interval lies wholly below 0",
    )
    slices: list[str] = knob(["batch"], meaning="metadata columns: `metric` may not fall on any of their values")
    min_slice: int = knob(250, low=1, meaning="test records that a value needs to be looked at")

    def problems(self) -> Iterator[str]:
        """A sentence for each value that is right in itself and wrong here."""
        for key, name in self._metrics():
            try:
                bin_, _, _ = guard_of(name)
            except ConfigError as error:
                yield f"judge.{key}: {error}"
                continue
            if bin_ is not None and key == "metric":
                yield f"judge.metric is {name!r}, expected a metric of all labels, such as nDCG@5."

    def cut_offs(self) -> Iterator[tuple[str, str, int]]:
        """The key, the name and the k of each metric."""
        return ((key, name, guard_of(name)[2]) for key, name in self._metrics())

    def _metrics(self) -> list[tuple[str, str]]:
        return [("metric", self.metric), *(("guards", name) for name in self.guards)]
