"""blend: the network, the linear classifiers and the training documents → one ranker, weighed on dev."""

import json

import numpy as np

from cascadexml.bundle import beside
from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.progress import console_progress
from cascadexml.rankers.base import Documents
from cascadexml.rankers.blend import Blend, Figures, Sources
from cascadexml.rankers.ensemble import load_cascade
from cascadexml.rankers.linear import LinearRanker
from stages import BLEND, CORPUS, LINEAR, MODEL, REPORTS, TOKENS, run


def main(settings: Settings) -> None:
    """Write the blend's bundle, which is evaluated, packaged and served from here on, and what it reaches on dev."""
    corpus, progress = Corpus.load(CORPUS, ["train", "dev"]), console_progress()
    train, dev, L = corpus.splits["train"], corpus.splits.get("dev"), corpus.vocabulary.L
    Y = corpus.train_labels
    sources = Sources.of(
        load_cascade(MODEL, settings.train.device),
        LinearRanker.load(LINEAR),
        Documents(train.texts, TokenStore.open(TOKENS / "train")),
        Y,
        corpus.vocabulary.names[:L],
        settings.blend,
        progress,
    )
    held_out = Documents(dev.texts, TokenStore.open(TOKENS / "dev")) if dev is not None and len(dev) else Documents([])
    uses = np.bincount(Y.indices, minlength=L)
    truth = dev.Y if dev is not None else Y[:0]
    kept: dict[str, Figures] = {}
    blend = Blend.fit(
        sources,
        held_out,
        truth,
        uses,
        train.ids,
        settings.blend,
        seed=settings.seed,
        progress=progress,
        record=lambda figures: kept.update(dev=figures),
    )
    blend.save(BLEND)
    with beside(REPORTS / "blend.json") as new:
        new.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
