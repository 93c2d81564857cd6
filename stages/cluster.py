"""The cluster stage: label features out of the training split, and the label tree over them, built or extended."""

import json
import logging

import stages
from cascadexml.artifact.predecessor import open_predecessor
from cascadexml.bundle import beside
from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.labels.features import label_features
from cascadexml.labels.tree import LabelTree, build_tree, derive_levels, extend_tree, tree_quality
from cascadexml.progress import console_progress

log = logging.getLogger(__name__)


def main(settings: Settings) -> None:
    """Cluster the labels of train into data/interim/tree/; write its quality to data/reports/tree.json."""
    knobs = settings.cluster
    corpus = Corpus.load(stages.CORPUS, splits=["train"])
    train, L = corpus.splits["train"], corpus.vocabulary.L
    warm = settings.train.warm_start
    base = LabelTree.load(open_predecessor(stages.BASE, corpus.vocabulary).tree) if warm else None
    progress = console_progress()
    Z = label_features(train.texts, train.Y[:, :L], knobs, progress)
    if base is not None:
        tree = extend_tree(base, Z, knobs.levels, progress)
    else:
        levels = knobs.levels if knobs.levels is not None else derive_levels(L, knobs.leaf_size)
        tree = build_tree(Z, levels, settings.seed, progress)
    log.info("%d labels in levels of %s clusters", L, list(tree.levels))
    tree.save(stages.TREE)
    with beside(stages.REPORTS / "tree.json") as report:
        report.write_text(json.dumps(tree_quality(tree, Z), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    stages.run(main)
