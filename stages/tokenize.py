"""The tokenize stage: the corpus's texts as token ids, one store a split."""

import logging

import stages
from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.progress import console_progress
from cascadexml.rankers.cascade.encoder import load_tokenizer

log = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    """Tokenise each split of the corpus into data/interim/tokens/."""
    tokenizer = load_tokenizer(settings.encoder.name, settings.encoder.revision)
    corpus = Corpus.load(stages.CORPUS)
    progress = console_progress()
    for name, split in corpus.splits.items():
        store = TokenStore.build(
            stages.TOKENS / name,
            split.texts,
            tokenizer,
            settings.tokenize.max_length,
            processes=settings.tokenize.processes,
            progress=progress,
        )
        full = int((store.lengths == store.max_length).sum())
        log.info(
            "%s: %d texts, %d tokens, %d texts fill %d", name, len(store), store.lengths.sum(), full, store.max_length
        )


if __name__ == "__main__":
    stages.run(main)
