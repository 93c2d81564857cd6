"""The cluster stage: label features out of the training split, and the label tree over them, built or extended."""

import json
import logging

import stages
from cascadexml.artifact.predecessor import open_predecessor
from cascadexml.bundle import beside
from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.labels.clustering import cluster_labels
from cascadexml.labels.tree import FORMAT as TREE_FORMAT
from cascadexml.labels.tree import LabelTree, tree_quality
from cascadexml.progress import console_progress

log = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    """Cluster the labels of train into data/interim/tree/; write its quality to data/reports/tree.json."""
    knobs = settings.cluster
    corpus = Corpus.load(stages.CORPUS, splits=["train"])
    train, L = corpus.splits["train"], corpus.vocabulary.L
    warm = settings.train.warm_start
    older = open_predecessor(stages.BASE, corpus.vocabulary) if warm else None
    base = LabelTree.load(older.part("network/tree", TREE_FORMAT)) if older else None
    tree, Z = cluster_labels(train.texts, train.Y[:, :L], knobs, settings.seed, base, console_progress())
    log.info("%d labels in levels of %s clusters", L, list(tree.levels))
    tree.save(stages.TREE)
    with beside(stages.REPORTS / "tree.json") as report:
        report.write_text(json.dumps(tree_quality(tree, Z), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    stages.run(main)
