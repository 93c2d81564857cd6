"""Section `blend` of params.yaml."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cascadexml.config.knobs import knob


@dataclass(frozen=True, kw_only=True)
class BlendSettings:
    """What ranks beside the network, and how their weights are fitted on dev."""

    sources: list[Literal["linear", "neighbours", "vectors", "names"]] = knob(
        ["linear", "neighbours", "names"],
        meaning="`linear`: the linear classifiers; `neighbours`: labels of documents with like words; `vectors`: of "
        "documents near in the network's space; `names`: labels whose names the text spells",
    )
    opening: int = knob(
        12, low=0, meaning="words at a text's start, mostly its title, that count twice for neighbours and names"
    )
    neighbours: int = knob(30, low=1, meaning="documents that vote")
    folds: int = knob(5, low=2, meaning="of the cross-fitting on dev that tells whether the blend is worth it")

    def problems(self) -> Iterator[str]:
        """A sentence for each value that is right in itself and wrong here."""
        if len(set(self.sources)) < len(self.sources):
            yield f"blend.sources is {self.sources}, expected each source once."
