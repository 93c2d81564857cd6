"""The cluster stage: label features out of the training split, and the label trees over them, built or extended."""

import json
import logging

import stages
from cascadexml.artifact.predecessor import open_predecessor
from cascadexml.bundle import beside
from cascadexml.config import Settings
from cascadexml.config.train import member_seeds
from cascadexml.data.corpus import Corpus
from cascadexml.labels.clustering import cluster_labels
from cascadexml.labels.forest import save_trees
from cascadexml.labels.tree import FORMAT as TREE_FORMAT
from cascadexml.labels.tree import LabelTree, tree_quality
from cascadexml.progress import console_progress

log = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    """Cluster the labels of train into data/interim/tree/, once a network; write its quality to tree.json."""
    knobs = settings.cluster
    corpus = Corpus.load(stages.CORPUS, splits=["train"])
    texts, L = corpus.splits["train"].texts, corpus.vocabulary.L
    members = settings.train.ensemble
    older = open_predecessor(stages.BASE, corpus.vocabulary) if settings.train.warm_start else None
    bases = [LabelTree.load(part) for part in older.parts("network/tree", TREE_FORMAT, members)] if older else []
    seeds = member_seeds(settings.seed, members)
    trees, Z = cluster_labels(texts, corpus.train_labels, knobs, seeds, bases, console_progress())
    log.info("%d labels in levels of %s clusters", L, list(trees[0].levels))
    save_trees(trees, stages.TREE)
    qualities = {f"tree_{i}": tree_quality(tree, Z) for i, tree in enumerate(trees)}
    with beside(stages.REPORTS / "tree.json") as report:
        content = qualities if members > 1 else qualities["tree_0"]
        report.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    stages.run(main)
