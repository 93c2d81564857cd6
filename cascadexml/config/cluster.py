"""Section `cluster` of params.yaml."""

from collections.abc import Iterator
from dataclasses import dataclass

from cascadexml.config.knobs import knob


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """The label tree: TF-IDF features of labels, smoothed over the label graph, clustered level by level."""

    levels: list[int] | None = knob(
        None,
        low=2,
        meaning="clusters of each resolution above the labels, rising powers of two; null: derived from the number "
        "of labels",
    )
    leaf_size: int = knob(8, low=1, meaning="labels a leaf cluster aims at, where levels are derived")
    ngrams: int = knob(1, low=1, high=3, meaning="words of a TF-IDF feature, at most")
    min_df: int = knob(2, low=1, meaning="training documents that a feature must occur in")
    max_features: int = knob(500_000, low=1, meaning="TF-IDF features in all")
    top_features: int = knob(1000, low=1, meaning="features kept a label")
    hops: int = knob(3, low=0, high=10, meaning="steps of the label-graph walk; 0: no smoothing")
    restart: float = knob(0.8, low=0.0, high=1.0, meaning="probability that the walk returns to where it began")
    neighbours: int = knob(10, low=1, meaning="labels kept a label in the graph")

    def problems(self) -> Iterator[str]:
        """A sentence for each value that is right in itself and wrong here."""
        levels = self.levels
        if levels is not None and (any(C & (C - 1) for C in levels) or levels != sorted(set(levels))):
            yield f"cluster.levels is {levels}, expected rising powers of two, such as [64, 512]."
