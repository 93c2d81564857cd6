"""Where clusters and labels stand in the heads' rows, and which of these slots are positive for a document.

A slot is a place in a head's tree order (`heads`): the j-th child of parent p stands in slot p·m + j.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from cascadexml.labels.tree import LabelTree


def children_of_levels(tree: LabelTree) -> list[np.ndarray]:
    """For each of the R resolutions, how many children each parent has: [C_0], then (C_r-1,) arrays, int64.

    Sizes of levels are powers of two, so between clusters every parent has as many children; only leaf clusters differ,
    by at most one label in a tree that was built, by a few in one that was extended.
    """
    if not tree.levels:
        return [np.array([tree.L], dtype=np.int64)]
    children = [np.array([tree.levels[0]], dtype=np.int64)]
    for coarse, fine in zip(tree.levels, tree.levels[1:], strict=False):
        children.append(np.full(coarse, fine // coarse, dtype=np.int64))
    return [*children, np.diff(tree.offsets[-1]).astype(np.int64)]


def label_slots(tree: LabelTree) -> np.ndarray:
    """(L,) int64: each label's slot in the last head's tree order."""
    slots = np.empty(tree.L, dtype=np.int64)
    if not tree.levels:
        slots[tree.leaf_order] = np.arange(tree.L)
        return slots
    offsets = tree.offsets[-1]
    sizes = np.diff(offsets)
    cluster = np.repeat(np.arange(sizes.size), sizes)
    slots[tree.leaf_order] = cluster * sizes.max() + np.arange(tree.L) - offsets[cluster]
    return slots


class LevelPositives:
    """The positive slots of every document at every resolution, as one CSR a resolution.

    Args:
        Y: (N, L') label matrix with L' >= L; columns beyond the tree's L labels are passed over.
        tree: the label tree.
    """

    def __init__(self, Y: sparse.csr_matrix, tree: LabelTree) -> None:
        documents, labels = Y[:, : tree.L].nonzero()
        slots_of_labels = [tree.cluster_of(level) for level in range(len(tree.levels))] + [label_slots(tree)]
        self.levels = []
        for slots in slots_of_labels:
            shape = (Y.shape[0], int(slots.max()) + 1)
            level = sparse.csr_matrix((np.ones(documents.size, np.int8), (documents, slots[labels])), shape=shape)
            self.levels.append((level.indptr.astype(np.int64), level.indices.astype(np.int64)))

    def batch(self, rows: np.ndarray, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """For each resolution the (document in the batch, slot) pairs of `rows`, as two (Y,) int64 tensors."""
        pairs = []
        for indptr, indices in self.levels:
            counts = indptr[rows + 1] - indptr[rows]
            documents = np.repeat(np.arange(rows.size), counts)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            slots = indices[np.repeat(indptr[rows], counts) + within]
            pairs.append((torch.from_numpy(documents).to(device), torch.from_numpy(slots).to(device)))
        return pairs
