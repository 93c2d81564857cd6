"""The trees of an ensemble on disk."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from cascadexml.errors import ConfigError, FormatError
from cascadexml.labels.forest import FORMAT, load_trees, save_trees
from cascadexml.labels.tree import LabelTree, build_tree


@pytest.fixture(scope="module")
def trees() -> list[LabelTree]:
    Z = sparse.random(40, 30, 0.3, "csr", random_state=0)
    return [build_tree(Z, [4, 8], seed=seed) for seed in range(3)]


def test_several_read_back_in_order(trees: list[LabelTree], tmp_path: Path) -> None:
    save_trees(trees, tmp_path / "tree")
    for found, expected in zip(load_trees(tmp_path / "tree", 3), trees, strict=True):
        assert np.array_equal(found.leaf_order, expected.leaf_order)


def test_one_is_a_tree_as_it_always_was(trees: list[LabelTree], tmp_path: Path) -> None:
    save_trees(trees, tmp_path / "tree")
    save_trees(trees[:1], tmp_path / "tree")
    trees[0].save(tmp_path / "plain")
    files = [{f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("tree", "plain")]
    assert files[0] == files[1]
    assert len(load_trees(tmp_path / "tree", 1)) == 1


@pytest.mark.parametrize(("saved", "members"), [(1, 2), (3, 2), (3, 1)])
def test_another_number_than_the_settings_ask_for_is_refused(
    trees: list[LabelTree], saved: int, members: int, tmp_path: Path
) -> None:
    save_trees(trees[:saved], tmp_path / "tree")
    with pytest.raises(ConfigError, match=rf"train\.ensemble is {members}, and .*tree holds {saved} trees: run dvc re"):
        load_trees(tmp_path / "tree", members)


def test_damage_and_what_holds_no_trees_are_refused(trees: list[LabelTree], tmp_path: Path) -> None:
    save_trees(trees, tmp_path / "tree")
    file = tmp_path / "tree" / "tree_1" / "tree.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"tree_1/tree\.safetensors"):
        load_trees(tmp_path / "tree", 3)
    with FORMAT.write(tmp_path / "empty") as folder:
        (folder / "nothing").write_text("")
    with pytest.raises(FormatError, match="does not say how many trees"):
        load_trees(tmp_path / "empty", 3)
    with pytest.raises(FormatError, match=r"holds no manifest\.json"):
        load_trees(tmp_path / "nowhere", 1)
