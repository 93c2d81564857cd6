"""Section `linear` of params.yaml."""

from dataclasses import dataclass

from cascadexml.config.knobs import knob


@dataclass(frozen=True, kw_only=True)
class LinearSettings:
    """One-against-rest linear classifiers over words, beside the network."""

    ngrams: int = knob(2, low=1, high=3, meaning="words of a TF-IDF term, at most")
    min_df: int = knob(2, low=1, meaning="training documents that a term must occur in")
    opening: int = knob(12, low=0, meaning="words at a text's start, mostly its title, that count twice")
    max_features: int = knob(500_000, low=1, meaning="TF-IDF terms in all")
    cost: float = knob(4.0, low=1e-6, meaning="C of the support vector machines: more fits closer")
    near_negatives: int = knob(1500, low=0, meaning="documents most like a label's own that it is told apart from")
    random_negatives: int = knob(1500, low=1, meaning="further documents, drawn at random")
    least_weight: float = knob(0.05, low=0.0, meaning="weights smaller than this are cut off")
