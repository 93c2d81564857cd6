"""From documents and their labels to label trees: features, then clusters."""

from collections.abc import Sequence

from scipy import sparse

from cascadexml.config import ClusterSettings
from cascadexml.labels.features import label_features
from cascadexml.labels.tree import LabelTree, build_tree, derive_levels, extend_tree
from cascadexml.progress import Progress, silent


def cluster_labels(
    texts: Sequence[str],
    Y: sparse.csr_matrix,
    settings: ClusterSettings,
    seeds: Sequence[int],
    bases: Sequence[LabelTree] = (),
    progress: Progress = silent,
) -> tuple[list[LabelTree], sparse.csr_matrix]:
    """Describe the labels by their documents, and cluster them once a seed.

    Args:
        texts: N training documents.
        Y: (N, L) label matrix of ones.
        settings: features, and the levels of the tree; null levels are derived from L.
        seeds: of the clusterings.
        bases: older trees, over the first labels, one a seed: new labels are taken into them. None are built then.
        progress: called as chunks of labels are done.

    Returns:
        A tree over L labels for each seed, and the (L, V) label features that they were made from.

    Raises:
        DataError: no word occurs in enough texts.
        ConfigError: scikit-learn is not installed, or the levels do not fit the labels or the base.
    """
    Z = label_features(texts, Y, settings, progress)
    if bases:
        return [extend_tree(base, Z, settings.levels, progress) for base in bases], Z
    levels = settings.levels if settings.levels is not None else derive_levels(Y.shape[1], settings.leaf_size)
    return [build_tree(Z, levels, seed, progress) for seed in seeds], Z
