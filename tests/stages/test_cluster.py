"""The cluster stage on a small real corpus."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import stages
from cascadexml.config import ClusterSettings
from cascadexml.data.corpus import Corpus
from cascadexml.errors import ConfigError
from cascadexml.labels.tree import LabelTree
from stages import cluster
from tests.support.params import SETTINGS


@pytest.fixture
def corpus(small_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.chdir(tmp_path)
    small_corpus.save(stages.CORPUS)
    return small_corpus


def content() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in [*stages.TREE.iterdir(), stages.REPORTS / "tree.json"]}


def test_writes_a_tree_over_the_labels_of_train_and_its_quality(corpus: Corpus) -> None:
    cluster.main(SETTINGS)
    tree = LabelTree.load(stages.TREE)
    quality = json.loads((stages.REPORTS / "tree.json").read_text())
    assert tree.L == corpus.vocabulary.L == quality["labels"]
    assert len(tree.levels) >= 1
    for C in tree.levels:
        assert quality[f"cosine_{C}"] > quality[f"random_cosine_{C}"]


def test_same_settings_same_bytes_other_seed_other_tree(corpus: Corpus) -> None:
    cluster.main(replace(SETTINGS, seed=3))
    first = content()
    cluster.main(replace(SETTINGS, seed=3))
    assert content() == first
    cluster.main(replace(SETTINGS, seed=4))
    assert content()["tree.safetensors"] != first["tree.safetensors"]


def test_levels_from_the_settings(corpus: Corpus) -> None:
    cluster.main(replace(SETTINGS, cluster=ClusterSettings(levels=[4, 32])))
    assert LabelTree.load(stages.TREE).levels == (4, 32)
    with pytest.raises(ConfigError, match=r"cluster\.levels holds 33"):
        cluster.main(replace(SETTINGS, cluster=ClusterSettings(levels=[4, 33])))
