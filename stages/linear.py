"""linear: the words and labels of train → one-against-rest linear classifiers."""

from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.progress import console_progress
from cascadexml.rankers.base import Documents
from cascadexml.rankers.linear import LinearRanker
from stages import CORPUS, LINEAR, run


def main(settings: Settings) -> None:
    """Write the ranker's bundle."""
    corpus = Corpus.load(CORPUS, ["train"])
    documents, Y = Documents(corpus.splits["train"].texts), corpus.train_labels
    LinearRanker.fit(documents, Y, settings.linear, settings.seed, console_progress()).save(LINEAR)


if __name__ == "__main__":
    run(main)
