"""Figures by label frequency: head, torso, tail and unseen, by how many training documents have a label."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.metrics.at_k import hit_matrix
from cascadexml.metrics.ratios import Bool, Ratio
from cascadexml.ranking import Ranking


def frequency_bins(Y_train: sparse.csr_matrix, torso: int, head: int) -> dict[str, Bool]:
    """`bins_by_uses` of the labels of train."""
    return bins_by_uses(np.bincount(Y_train.indices, minlength=Y_train.shape[1]), torso, head)


def bins_by_uses(uses: npt.NDArray[np.int64], torso: int, head: int) -> dict[str, Bool]:
    """Labels by (V,) uses in train: head (>= `head`), torso (>= `torso`), tail (fewer), unseen (none); masks (V,)."""
    return {
        "head": uses >= head,
        "torso": (uses >= torso) & (uses < head),
        "tail": (uses > 0) & (uses < torso) & (uses < head),
        "unseen": uses == 0,
    }


def bin_ratios(ranking: Ranking, Y: sparse.csr_matrix, mask: Bool, ks: Sequence[int]) -> dict[str, Ratio]:
    """One bin's figures as ratios.

    "R@k": of all (document, label) pairs with a label of the bin, the share found in the top k.
    "P@k_part": the bin's part of P@k, hits on its labels / k; the parts of all bins add up to P@k.
    """
    N = Y.shape[0]
    width = max(ks)
    found = hit_matrix(ranking, Y, width) & mask[ranking.labels[:, :width]]
    right = np.zeros((N, width))
    right[:, : found.shape[1]] = found
    right = right.cumsum(axis=1)
    positives = np.asarray(Y @ mask.astype(np.float64))
    ones = np.ones(N)
    ratios = {f"R@{k}": Ratio(right[:, k - 1], positives) for k in ks}
    return ratios | {f"P@{k}_part": Ratio(right[:, k - 1] / k, ones) for k in ks}
