"""Section `validate` of params.yaml."""

from collections.abc import Iterator
from dataclasses import dataclass

from cascadexml.config.knobs import knob


@dataclass(frozen=True, kw_only=True)
class ValidateSettings:
    """Bounds for one record, and the shares of bad records above which the pipeline stops or warns."""

    min_chars: int = knob(3, low=1, meaning="shorter texts are refused")
    max_chars: int = knob(100_000, low=1, meaning="longer texts are refused; at least `min_chars`")
    min_labels: int = knob(1, low=0, meaning="records with fewer are refused")
    max_labels: int = knob(200, low=1, meaning="records with more are refused; at least `min_labels`")
    max_refused_share: float = knob(0.05, low=0.0, high=1.0, meaning="share of a split that may be refused")
    max_leak_share: float = knob(
        0.01, low=0.0, high=1.0, meaning="share of dev or test whose text also stands in train"
    )
    max_duplicate_share: float = knob(
        0.05, low=0.0, high=1.0, meaning="share of a split that repeats a text of the split"
    )
    max_unseen_label_share: float = knob(
        0.10, low=0.0, high=1.0, meaning="share of dev's or test's label uses whose label train lacks"
    )
    max_damaged_share: float = knob(0.02, low=0.0, high=1.0, meaning="share of texts with encoding damage")

    def problems(self) -> Iterator[str]:
        """A sentence for each value that is right in itself and wrong here."""
        for low, high in (("min_chars", "max_chars"), ("min_labels", "max_labels")):
            a, b = getattr(self, low), getattr(self, high)
            if a > b:
                yield f"validate.{low} is {a}, expected at most validate.{high}, {b}."
