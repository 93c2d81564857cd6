"""Section `evaluate` of params.yaml."""

from collections.abc import Iterator
from dataclasses import dataclass

from cascadexml.config.knobs import knob


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What is measured on test."""

    ks: list[int] = knob([1, 3, 5, 10, 20], low=1, meaning="cut-offs, rising")
    top_k: int = knob(100, low=1, meaning="length of each document's ranking; at least the greatest of `ks`")
    bootstrap_samples: int = knob(1000, low=1, meaning="for the 95 % intervals")
    propensity_a: float = knob(0.55, low=0.0, meaning="A of Jain et al. (2016)")
    propensity_b: float = knob(1.5, low=0.0, meaning="B of Jain et al. (2016)")
    torso: int = knob(10, low=1, meaning="a label with so many training documents is torso; less is tail")
    head: int = knob(100, low=1, meaning="or head; more than `torso`")
    examples: int = knob(10, low=1, meaning="worst and best shown in `examples.html`")

    def problems(self) -> Iterator[str]:
        """A sentence for each value that is right in itself and wrong here."""
        if not self.ks or self.ks != sorted(set(self.ks)) or self.ks[-1] > self.top_k:
            yield (f"evaluate.ks is {self.ks}, expected rising cut-offs, at most evaluate.top_k, {self.top_k}.")
        if self.torso >= self.head:
            yield f"evaluate.torso is {self.torso}, expected less than evaluate.head, {self.head}."
