"""The inputs of a training: all that decides the weights it ends with, in one place."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from cascadexml.bundle import Bundle
from cascadexml.config import EncoderSettings, TrainSettings
from cascadexml.config.metric_names import metric_of
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.errors import ConfigError
from cascadexml.labels.tree import LabelTree
from cascadexml.rankers.cascade.network import FORMAT as MODEL_FORMAT


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """What a training is given.

    Attributes:
        corpus: with splits `train` and, for selection, `dev`; without documents in dev the last weights are kept.
        tokens: a token store for each of these splits.
        tree: the label tree over the corpus's L labels.
        encoder: which transformer to start from.
        settings: model, loss, optimiser and schedule.
        seed: of initialisation, data order and dropout.
        propensity_a: A of Jain et al. (2016), for propensity-scored metrics on dev.
        propensity_b: B of the same.
        base: the network's bundle whose weights a warm start begins with, or where it lies; its labels are the corpus's
            first, and `tree` is its tree with new labels taken in (`extend_tree`). None for a cold start.

    Raises:
        ConfigError: the selection metric is unknown, or a warm start is set and no base was given.
    """

    corpus: Corpus
    tokens: Mapping[str, TokenStore]
    tree: LabelTree
    encoder: EncoderSettings
    settings: TrainSettings
    seed: int
    propensity_a: float
    propensity_b: float
    base: Path | Bundle | None = None

    def __post_init__(self) -> None:
        metric_of(self.settings.select)
        if self.settings.warm_start and self.base is None:
            raise ConfigError(
                "train.warm_start is true and no base was given: give one, or set train.warm_start to false."
            )

    @property
    def selects(self) -> bool:
        """Whether there are documents of dev to pick the best weights by."""
        return len(self.tokens.get("dev", ())) > 0

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content of all of this; how often it is checkpointed and who else is trained do not count."""
        kept = dataclasses.asdict(dataclasses.replace(self.settings, checkpoint_minutes=0.0, ensemble=1))
        tree = (self.tree.leaf_order, *self.tree.offsets)
        parts = {
            "corpus": self.corpus.fingerprint,
            "tokens": {name: store.fingerprint for name, store in sorted(self.tokens.items())},
            "tree": hashlib.sha256(b"".join(a.tobytes() for a in tree)).hexdigest(),
            "encoder": dataclasses.asdict(self.encoder),
            "settings": kept,
            "seed": self.seed,
            "propensity": [self.propensity_a, self.propensity_b],
            "base": self.base and MODEL_FORMAT.read(self.base, digests=False).fingerprint,
            "torch": torch.__version__,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
