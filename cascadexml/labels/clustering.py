"""From documents and their labels to the label tree: features, then clusters."""

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
    seed: int,
    base: LabelTree | None = None,
    progress: Progress = silent,
) -> tuple[LabelTree, sparse.csr_matrix]:
    """Describe the labels by their documents, and cluster them.

    Args:
        texts: N training documents.
        Y: (N, L) label matrix of ones.
        settings: features, and the levels of the tree; null levels are derived from L.
        seed: of the clustering.
        base: an older tree, over the first labels: new ones are taken into it. None builds one.
        progress: called as chunks of labels are done.

    Returns:
        The tree over L labels, and the (L, V) label features that it was made from.

    Raises:
        DataError: no word occurs in enough texts.
        ConfigError: scikit-learn is not installed, or the levels do not fit the labels or the base.
    """
    Z = label_features(texts, Y, settings, progress)
    if base is not None:
        return extend_tree(base, Z, settings.levels, progress), Z
    levels = settings.levels if settings.levels is not None else derive_levels(Y.shape[1], settings.leaf_size)
    return build_tree(Z, levels, seed, progress), Z
