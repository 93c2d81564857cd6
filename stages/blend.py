"""blend: the network, the linear classifiers and the training documents → one ranker, weighed on dev."""

import numpy as np

from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.progress import console_progress
from cascadexml.rankers.base import Documents
from cascadexml.rankers.blend import Blend, Sources
from cascadexml.rankers.ensemble import load_cascade
from cascadexml.rankers.linear import LinearRanker
from stages import BLEND, CORPUS, LINEAR, MODEL, TOKENS, run


def main(settings: Settings) -> None:
    """Write the blend's bundle: what is evaluated, packaged and served from here on."""
    corpus, progress = Corpus.load(CORPUS, ["train", "dev"]), console_progress()
    train, dev, L = corpus.splits["train"], corpus.splits.get("dev"), corpus.vocabulary.L
    Y = train.Y[:, :L].tocsr()
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
    blend = Blend.fit(sources, held_out, truth, uses, train.ids, settings.blend, seed=settings.seed, progress=progress)
    blend.save(BLEND)


if __name__ == "__main__":
    run(main)
