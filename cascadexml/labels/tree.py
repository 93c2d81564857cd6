"""The label tree: labels grouped into clusters, level by level, by balanced spherical 2-means."""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse
from scipy.sparse.linalg import norm

from cascadexml.bundle import Bundle, Format
from cascadexml.checked_json import whole, wholes
from cascadexml.errors import ConfigError, DataError, FormatError
from cascadexml.labels.halving import GRAM, SAMPLE, Halver
from cascadexml.labels.rows import unit_rows
from cascadexml.labels.threads import in_threads
from cascadexml.progress import Progress, silent

FORMAT = Format("cascadexml.tree", 1)
BRANCHING = 8
"""Clusters under a cluster of the level above, when levels are derived."""
COARSEST = 16
"""The fewest clusters worth a level of their own above another."""
MANY_LABELS = 200_000
"""More labels than this get a fourth resolution."""
FULLNESS = 1.25
"""A leaf cluster takes new labels in until it holds so many times the mean."""
NODES = 32
"""So many nodes of a depth keep the threads busy, each with all splits below a node."""
COSINES = 2**24
"""Cosines of new labels and clusters held at a time, in float32."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LabelTree:
    """L labels in clusters of several levels, coarse to fine; a cluster is a contiguous range of `leaf_order`.

    Attributes:
        leaf_order: (L,) int64, a permutation of the label rows.
        offsets: a level (C + 1,) int64: cluster c of the level holds leaf_order[offsets[c] : offsets[c + 1]].
        L: labels.
        levels: C of each level above the labels, powers of two, rising; R = len(levels) + 1 resolutions.
    """

    leaf_order: npt.NDArray[np.int64]
    offsets: tuple[npt.NDArray[np.int64], ...]
    L: int
    levels: tuple[int, ...]

    def cluster_of(self, level: int) -> npt.NDArray[np.int64]:
        """The cluster of each label row at a level: (L,) int64.

        Args:
            level: 0 for the coarsest, up to R - 2.
        """
        clusters = np.empty(self.L, dtype=np.int64)
        clusters[self.leaf_order] = np.repeat(np.arange(self.levels[level]), np.diff(self.offsets[level]))
        return clusters

    def save(self, path: Path) -> None:
        """Write the tree as a bundle at `path`."""
        with FORMAT.write(path, {"L": self.L, "levels": list(self.levels)}) as folder:
            arrays = {"leaf_order": self.leaf_order} | {f"offsets_{r}": o for r, o in enumerate(self.offsets)}
            save_file(arrays, folder / "tree.safetensors")

    @classmethod
    def load(cls, place: Path | Bundle) -> "LabelTree":
        """Read what `save` wrote.

        Args:
            place: where it lies, or the bundle that has been verified.

        Raises:
            FormatError: the bundle is missing, truncated, tampered with, of another version, or holds no tree.
        """
        bundle = FORMAT.read(place)
        path = bundle.path
        try:
            L, levels = whole(bundle.meta, "L"), tuple(wholes(bundle.meta, "levels", 1))
            arrays = load_file(path / "tree.safetensors")
            leaf_order = arrays["leaf_order"]
            tree = cls(leaf_order, tuple(arrays[f"offsets_{r}"] for r in range(len(levels))), L, levels)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise FormatError(f"{path} holds no whole label tree ({error!r}): cluster the labels again.") from None
        if not tree._is_sound():
            raise FormatError(f"{path} holds arrays that are no label tree: cluster the labels again.")
        return tree

    def _is_sound(self) -> bool:
        """Whether labels are permuted, clusters are ranges that cover them, and each level refines the one above."""
        if any(a.dtype != np.int64 or a.ndim != 1 for a in (self.leaf_order, *self.offsets)):
            return False
        if self.leaf_order.size != self.L or not np.array_equal(np.sort(self.leaf_order), np.arange(self.L)):
            return False
        for C, offsets in zip(self.levels, self.offsets, strict=True):
            if offsets.size != C + 1 or offsets[0] != 0 or offsets[-1] != self.L or (np.diff(offsets) < 1).any():
                return False
        return all(
            fine % coarse == 0 and np.array_equal(self.offsets[r + 1][:: fine // coarse], self.offsets[r])
            for r, (coarse, fine) in enumerate(itertools.pairwise(self.levels))
        )


def derive_levels(L: int, leaf_size: int) -> list[int]:
    """Choose the levels above L labels.

    The finest has the power of two nearest to L / leaf_size clusters, at least 2 and at most L. Above it stand levels
    with an eighth of the clusters each: one, or two for more than 200,000 labels, as long as they have 16 clusters.

    Args:
        L: labels.
        leaf_size: labels that a cluster of the finest level aims at.

    Returns:
        C of each level, coarse to fine; empty for a single label.
    """
    if L < 2:
        return []
    wanted = max(L / leaf_size, 2.0)
    below = 2 ** int(np.log2(wanted))
    finest = min(below if wanted - below <= 2 * below - wanted else 2 * below, _largest_power(L))
    levels = [finest]
    while len(levels) < (3 if L > MANY_LABELS else 2) and levels[0] // BRANCHING >= COARSEST:
        levels.insert(0, levels[0] // BRANCHING)
    return levels


def check_levels(levels: Sequence[int], L: int) -> list[int]:
    """Check levels that a user chose, and fit them to L labels.

    Returns:
        C of each level, coarse to fine, none above the largest power of two that L labels can fill; levels that are
        too large for L are cut to it or dropped, which is logged.

    Raises:
        ConfigError: a level is no power of two from 2 up, or the levels do not rise.
    """
    for C in levels:
        if C < 2 or C & (C - 1):
            near = max(2, min((2 ** (C.bit_length() - 1), 2 ** C.bit_length()), key=lambda power: abs(power - C)))
            raise ConfigError(f"cluster.levels holds {C}, expected powers of two from 2 up; the nearest is {near}.")
    if any(fine <= coarse for coarse, fine in itertools.pairwise(levels)):
        raise ConfigError(f"cluster.levels is {list(levels)}, expected each level to be larger than the one before.")
    most = _largest_power(L)
    kept = sorted({min(C, most) for C in levels} - {1})
    if kept != list(levels):
        log.warning("levels %s are too large for %d labels: using %s", list(levels), L, kept)
    return kept


def build_tree(Z: sparse.csr_matrix, levels: Sequence[int], seed: int, progress: Progress = silent) -> LabelTree:
    """Cluster labels by balanced spherical 2-means, from the root down to max(levels) clusters.

    Every split halves a node to within one label, so that the sizes of a level's clusters differ by at most one. Each
    node draws from its own generator, seeded by (seed, depth, node), so the tree does not depend on the order of work.

    Args:
        Z: (L, V) label features; rows need not be normalised, and may be empty.
        levels: C of each level, coarse to fine: powers of two; see `check_levels` for what becomes of too large ones.
        seed: decides the tree together with Z and levels.
        progress: called with the labels of all depths' splits done, and of all.

    Raises:
        ConfigError: as `check_levels`.
    """
    L = Z.shape[0]
    levels = check_levels(levels, L)
    order = np.arange(L, dtype=np.int64)
    bounds = [np.array([0, L], dtype=np.int64)]
    depths = max(levels, default=1).bit_length() - 1
    for _ in range(depths):
        bounds.append(np.sort(np.concatenate([bounds[-1], bounds[-1][:-1] + np.diff(bounds[-1]) // 2])))
    halver = Halver(unit_rows(Z), seed)
    for depth, nodes in enumerate(bounds[:-1]):
        sizes = np.diff(nodes)
        # A very large node shares its own work between the threads. Of others a thread takes one with all splits below
        # it, as soon as there are enough of them.
        large = int(sizes.max()) > SAMPLE
        last = depth + 1 if large or (sizes.size < NODES and int(sizes.max()) > GRAM) else depths
        halve, run = partial(halver.halve, depth=depth, depths=last), map if large else in_threads
        halved = []
        for done, part in enumerate(run(halve, enumerate(np.split(order, nodes[1:-1]))), start=1):
            halved.append(part)
            progress("cluster labels", depth * L + int(nodes[done]) * (last - depth), depths * L, {})
        order = np.concatenate(halved)
        if last == depths:
            break
    kept = tuple(each for each in bounds if each.size - 1 in levels)
    return LabelTree(order, kept, L, tuple(levels))


def extend_tree(
    tree: LabelTree, Z: sparse.csr_matrix, levels: Sequence[int] | None = None, progress: Progress = silent
) -> LabelTree:
    """Take new labels into a tree, whose levels and whose labels' clusters and order stay as they are.

    Each new label joins the leaf cluster whose centroid, of its old labels, is the most similar by cosine and has room.
    Labels choose in the order of their greatest cosine; among equal ones the lower row, and the lower cluster, comes
    first. One without features, or without any in common with a cluster that has room, joins the emptiest. Room ends
    at 1.25 times the mean size that clusters will have, or at the size of the largest old cluster where that is more;
    so extending again and again does not unbalance the tree further.

    Args:
        tree: over the first labels of Z.
        Z: (L', V) features of the old labels and then the new; rows need not be normalised, and may be empty.
        levels: what the user wants them to be, which must be what the tree has; None takes the tree's.
        progress: called after each chunk of new labels.

    Returns:
        A tree over L' labels; the new ones stand last in their clusters, by row.

    Raises:
        ConfigError: `levels` are not the tree's, or as `check_levels`.
        DataError: Z has fewer labels than the tree.
    """
    L = Z.shape[0]
    if levels is not None and check_levels(levels, tree.L) != list(tree.levels):
        raise ConfigError(
            f"cluster.levels is {list(levels)}, the tree to start from has {list(tree.levels)}: set it to that or to "
            "null, or set train.warm_start to false."
        )
    if L < tree.L:
        raise DataError(
            f"the label features have {L} rows, expected at least {tree.L}, the labels of the tree: make them from a "
            "corpus whose vocabulary extends the tree's."
        )
    new = np.arange(tree.L, L)
    if not tree.levels or not new.size:
        return LabelTree(np.concatenate([tree.leaf_order, new]), tree.offsets, L, tree.levels)
    C, offsets = tree.levels[-1], tree.offsets[-1]
    sizes = np.diff(offsets)
    room = max(int(sizes.max()), math.ceil(FULLNESS * L / C)) - sizes
    home = _homes(unit_rows(Z), tree, room, progress)
    # A stable sort by cluster keeps the old order inside each, and puts the new labels, by row, behind.
    clusters = np.concatenate([np.repeat(np.arange(C), sizes), home])
    order = np.concatenate([tree.leaf_order, new])[np.argsort(clusters, kind="stable")]
    grown = np.concatenate([[0], np.cumsum(np.bincount(clusters, minlength=C))]).astype(np.int64)
    return LabelTree(order, tuple(grown[:: C // coarse].copy() for coarse in tree.levels), L, tree.levels)


def _homes(
    Z: sparse.csr_matrix, tree: LabelTree, room: npt.NDArray[np.int64], progress: Progress
) -> npt.NDArray[np.int64]:
    """The leaf cluster of each new label, (L' - L,); `room` says how many more each of the C clusters takes."""
    L, C, offsets = tree.L, tree.levels[-1], tree.offsets[-1]
    members = sparse.csr_matrix((np.ones(L, dtype=np.float32), tree.leaf_order, offsets), shape=(C, L))
    centroids = unit_rows(members @ Z[:L]).T.tocsr()
    n, rows = Z.shape[0] - L, max(1, COSINES // C)
    chunks = [(start, min(start + rows, n)) for start in range(0, n, rows)]
    greatest = np.concatenate([(Z[L + a : L + b] @ centroids).toarray().max(axis=1) for a, b in chunks])
    queue = np.argsort(-greatest, kind="stable")
    home = np.empty(n, dtype=np.int64)
    room = room.copy()
    for a, b in chunks:
        for label, cosines in zip(queue[a:b], (Z[L + queue[a:b]] @ centroids).toarray(), strict=True):
            cosines[room <= 0] = -1.0
            nearest = cosines.argmax()
            home[label] = nearest if cosines[nearest] > 0 else room.argmax()
            room[home[label]] -= 1
        progress("extend tree", b, n, {})
    return home


def tree_quality(tree: LabelTree, Z: sparse.csr_matrix) -> dict[str, float]:
    """Say how tight and even the clusters are.

    Args:
        tree: over L labels.
        Z: (L, V) label features.

    Returns:
        For each level with C clusters: `cosine_C`, the mean cosine of a label and its cluster's centroid;
        `random_cosine_C`, the same for clusters of the same sizes filled at random; `balance_C`, the smallest
        cluster's size over the largest's. And `labels`, and `labels_without_features`, which no mean counts.
    """
    Z = unit_rows(Z)
    empty = int((np.diff(Z.indptr) == 0).sum())
    quality = {"labels": float(tree.L), "labels_without_features": float(empty)}
    shuffled = np.random.default_rng(0).permutation(tree.L)
    for C, offsets in zip(tree.levels, tree.offsets, strict=True):
        sizes = np.diff(offsets)
        quality[f"cosine_{C}"] = _mean_cosine(Z, tree.leaf_order, offsets) / max(tree.L - empty, 1)
        quality[f"random_cosine_{C}"] = _mean_cosine(Z, shuffled, offsets) / max(tree.L - empty, 1)
        quality[f"balance_{C}"] = float(sizes.min() / sizes.max())
    return quality


def _mean_cosine(Z: sparse.csr_matrix, order: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> float:
    """The sum over labels of the cosine to their cluster's centroid.

    With unit rows z and their cluster's sum s, the sum of z · s / |s| over the cluster is |s|.
    """
    total = 0.0
    for start, end in _chunks(offsets, 2**14):
        rows = order[offsets[start] : offsets[end]]
        cluster = np.repeat(np.arange(end - start), np.diff(offsets[start : end + 1]))
        members = sparse.csr_matrix(
            (np.ones(rows.size, dtype=np.float32), (cluster, np.arange(rows.size))), shape=(end - start, rows.size)
        )
        sums = (members @ Z[rows]).tocsr()
        total += float(norm(sums, axis=1).sum())
    return total


def _chunks(offsets: npt.NDArray[np.int64], labels: int) -> Iterator[tuple[int, int]]:
    """Ranges of clusters with about so many labels, at least one cluster each."""
    start = 0
    while start < offsets.size - 1:
        end = max(int(np.searchsorted(offsets, offsets[start] + labels, side="right")) - 1, start + 1)
        yield start, end
        start = end


def _largest_power(L: int) -> int:
    """The largest power of two that is at most L, and at least 1."""
    return int(2 ** (max(L, 1).bit_length() - 1))
