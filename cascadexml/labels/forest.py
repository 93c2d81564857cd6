"""The label trees of a training on disk: the tree itself where there is one network, else one tree a member."""

from collections.abc import Sequence
from pathlib import Path

from cascadexml.bundle import Format, kind_of
from cascadexml.errors import ConfigError, FormatError
from cascadexml.labels.tree import FORMAT as TREE_FORMAT
from cascadexml.labels.tree import LabelTree

FORMAT = Format("cascadexml.trees", 1)


def save_trees(trees: Sequence[LabelTree], path: Path) -> None:
    """Write trees as a bundle at `path`: a single one as `LabelTree.save` does, several as parts of one."""
    if len(trees) == 1:
        trees[0].save(path)
        return
    with FORMAT.write(path, {"trees": len(trees)}) as folder:
        for i, tree in enumerate(trees):
            tree.save(folder / f"tree_{i}")


def load_trees(path: Path, members: int) -> list[LabelTree]:
    """Read what `save_trees` wrote.

    Args:
        path: where it lies.
        members: how many trees are wanted.

    Raises:
        ConfigError: there are more or fewer.
        FormatError: the bundle is missing, truncated, tampered with, of another version, or holds no tree.
    """
    alone = kind_of(path) == TREE_FORMAT.kind
    found = (TREE_FORMAT if alone else FORMAT).read(path)
    count = 1 if alone else found.meta.get("trees")
    if not isinstance(count, int):
        raise FormatError(f"{path} does not say how many trees it holds: cluster the labels again.")
    if count != members:
        raise ConfigError(f"train.ensemble is {members}, and {path} holds {count} trees: run dvc repro cluster.")
    parts = [found] if alone else [found.part(f"tree_{i}", TREE_FORMAT) for i in range(count)]
    return [LabelTree.load(part) for part in parts]
