"""Label features: TF-IDF of the documents, PIFA, and smoothing over the label graph; all sparse, all chunked."""

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.config import ClusterSettings
from cascadexml.labels.rows import Rows, float32, kth_largest, row_ranges, top_k, unit_rows
from cascadexml.labels.tfidf import Tfidf
from cascadexml.labels.threads import in_threads
from cascadexml.progress import Progress, silent

BUDGET = 2**22
"""Entries that a product may hold before it is cut to its largest: some 250 MB a thread while that is done."""
WORK = 2**28
"""Products that one hop of all labels' walks may cost."""
ENTRIES = 2**27
"""Entries that the matrix of a step may hold: 1.5 GB."""
FEATURES = 2**29
"""Entries that all labels' features may hold: 4.3 GB."""
FEW = 64
"""Labels that a hop is first tried to be spent on, where a walk cannot go on from all."""

log = logging.getLogger(__name__)


def label_features(
    texts: Sequence[str], Y: sparse.csr_matrix, settings: ClusterSettings, progress: Progress = silent
) -> sparse.csr_matrix:
    """Describe each label by the words of its documents and of its neighbours' documents.

    TF-IDF, then `pifa`, then, unless `settings.hops` is 0, `smooth` over `label_walk`.

    Args:
        texts: N documents.
        Y: (N, L) label matrix of ones.
        settings: n-grams, cuts, and the walk.
        progress: called as chunks of labels are done.

    Returns:
        (L, V) float32, l2-normalised rows of at most `settings.top_features` entries, fewer where there are so many
        labels that theirs would not fit memory (`affordable_features`); empty for a label without documents.

    Raises:
        DataError: no term occurs in enough texts.
    """
    _, X = Tfidf.fit(texts, settings.ngrams, settings.min_df, settings.max_features)
    top_features = affordable_features(settings.top_features, Y.shape[1])
    Z = pifa(X, Y, top_features, progress)
    if settings.hops == 0:
        return Z
    A = label_walk(Y, settings.hops, settings.restart, settings.neighbours, progress)
    return smooth(Z, A, top_features, progress)


def affordable_features(top_features: int, L: int) -> int:
    """How many features each of L labels keeps: those asked for, or fewer, so that all labels' are at most `FEATURES`.

    That fewer are kept is logged.
    """
    kept = min(top_features, max(1, FEATURES // max(L, 1)))
    if kept < top_features:
        log.info("label features: %d a label instead of %d, so that those of %d labels fit", kept, top_features, L)
    return kept


def pifa(
    X: sparse.csr_matrix, Y: sparse.csr_matrix, top_features: int, progress: Progress = silent
) -> sparse.csr_matrix:
    """Positive instance feature aggregation: Z = Yᵀ X, the largest of each row kept, rows l2-normalised.

    Source: Prabhu et al., Parabel (2018); Zhang et al., XR-Transformer (2021), section 3.

    Args:
        X: (N, V) document features, none negative.
        Y: (N, L) label matrix.
        top_features: entries kept a label; among equal ones those of lower columns.
        progress: called as chunks of labels are done.

    Returns:
        (L, V) float32.
    """
    return unit_rows(_product_top_k(float32(Y.T), float32(X), top_features, "label features", progress), in_place=True)


def label_walk(
    Y: sparse.csr_matrix, hops: int, restart: float, neighbours: int, progress: Progress = silent
) -> sparse.csr_matrix:
    """Random walk with restart on the label-document graph, as an affinity of labels.

    With M = D_l⁻¹ Yᵀ D_d⁻¹ Y, a step from a label over one of its documents to one of that document's labels, the walk
    is the sum over h = 0 … hops - 1 of restart · (1 - restart)^h · M^(h + 1). Of each row the largest off the diagonal
    are kept, and the diagonal; then A ← D_r^-½ A D_c^-½ with the sums of what is kept.

    It is exact, not sampled, as long as it is cheap. Where L is so large that M would not fit, its rows hold to their
    `ENTRIES` / L largest; where a hop of a label would cost more than `WORK` / L products, because hubs are among the
    labels it has reached, it goes on from the heaviest of them that can be afforded. What that leaves of the weight is
    logged.

    Source: Kharbanda et al., CascadeXML (2022), which samples it, after Mittal et al., ECLARE (2021).

    Args:
        Y: (N, L) label matrix of ones.
        hops: steps at most, at least 1.
        restart: chance to stop after a step.
        neighbours: labels kept a row besides the label itself; among equal ones those of lower columns.
        progress: called as chunks of labels are done.

    Returns:
        (L, L) float32; the row and column of a label without documents are empty.
    """
    M = _step(float32(Y), progress)
    L = M.shape[0]
    lengths, share = np.diff(M.indptr).astype(np.int64), WORK // max(L, 1)
    rows = max(1, BUDGET // max(1, min(L, share)))

    def walked(start: int) -> tuple[sparse.csr_matrix, float, float]:
        end = min(start + rows, L)
        reached = M[start:end]
        goes = sparse.eye(end - start, L, start, format="csr")
        kept = whole = 0.0
        for hop in range(1, hops):
            goes_on = _affordable(reached, lengths, share)
            kept, whole = kept + goes_on.sum(), whole + reached.sum()
            # The factor `restart`, common to all hops, cancels in the normalisation; without it, 0 means no preference.
            goes = goes + (1 - restart) ** hop * goes_on
            if hop + 1 < hops:
                reached = (goes_on @ M).tocsr()
        # All hops' last steps in one product, which costs less than sums of theirs.
        walk = sparse.csr_matrix(goes @ M, dtype=np.float32)
        return _neighbours(walk, start, neighbours), kept, whole

    parts, kept, whole = [], 0.0, 0.0
    for done, (part, some, of) in enumerate(in_threads(walked, range(0, L, rows)), start=1):
        parts.append(part)
        kept, whole = kept + some, whole + of
        progress("label graph", min(done * rows, L), L, {})
    if kept < whole:
        log.info("label graph: hops went on with %.1f %% of the weight, the rest was cut off", 100 * kept / whole)
    A = sparse.vstack(parts, format="csr", dtype=np.float32)
    return float32(_inverse_root(A.sum(axis=1)) @ A @ _inverse_root(A.sum(axis=0)))


def _step(Y: sparse.csr_matrix, progress: Progress) -> sparse.csr_matrix:
    """M of `label_walk`: (L, L) float64, of each row the largest `ENTRIES` / L."""
    L, most = Y.shape[1], max(1, ENTRIES // max(Y.shape[1], 1))
    to_documents, to_labels = _row_stochastic(float32(Y.T)), _row_stochastic(Y)
    return _product_top_k(to_documents, to_labels, min(most, L), "label graph: steps", progress, np.float64)


def _affordable(reached: sparse.csr_matrix, lengths: npt.NDArray[np.int64], share: int) -> sparse.csr_matrix:
    """Of each row the largest entries, until their columns' `lengths` come to `share`; of equal ones lower columns."""
    costs, counts = lengths[reached.indices], np.diff(reached.indptr)
    row = np.repeat(np.arange(counts.size), counts)
    dear = np.bincount(row, costs, counts.size) > share
    if not dear.any():
        return reached
    chosen, few = ~np.repeat(dear, counts), FEW
    while dear.any():
        # A row's heaviest few mostly use its share up, and are found without sorting the rest.
        at = np.flatnonzero(np.repeat(dear, counts))
        bars = np.repeat(kth_largest(reached.data[at], counts[dear], few), counts[dear])
        at = at[reached.data[at] >= bars]
        at = at[np.lexsort((reached.indices[at], -reached.data[at], row[at]))]
        before = np.cumsum(costs[at]) - costs[at]
        firsts = np.flatnonzero(np.diff(row[at], prepend=-1))
        before -= np.repeat(before[firsts], np.diff(firsts, append=at.size))
        chosen[at[before < share]] = True
        dear &= (np.bincount(row[at], costs[at], counts.size) < share) & (counts > few)
        few *= FEW
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row[chosen], minlength=counts.size))])
    return sparse.csr_matrix((reached.data[chosen], reached.indices[chosen], indptr), shape=reached.shape)


def smooth(
    Z: sparse.csr_matrix, A: sparse.csr_matrix, top_features: int, progress: Progress = silent
) -> sparse.csr_matrix:
    """Mix each label's features with its neighbours': Z' = A Z, the largest of each row kept, rows l2-normalised.

    Args:
        Z: (L, V) label features, none negative.
        A: (L, L) affinity of labels, none negative.
        top_features: entries kept a label; among equal ones those of lower columns.
        progress: called as chunks of labels are done.

    Returns:
        (L, V) float32.
    """
    return unit_rows(
        _product_top_k(float32(A), float32(Z), top_features, "smooth label features", progress), in_place=True
    )


def _product_top_k(
    left: sparse.csr_matrix,
    right: sparse.csr_matrix,
    k: int,
    what: str,
    progress: Progress,
    dtype: type[np.floating] = np.float32,
) -> sparse.csr_matrix:
    """The largest k of each row of left @ right, some rows at a time so that the product stays within the budget."""
    sizes = np.diff(right.indptr).astype(np.int64)
    through = np.concatenate([[0], np.cumsum(sizes[left.indices])])
    most = np.minimum(np.diff(through[left.indptr]), right.shape[1])
    ranges = list(row_ranges(most, BUDGET))
    rows = Rows(right.shape[1], dtype)
    for (_, end), part in zip(
        ranges, in_threads(lambda cut: top_k((left[slice(*cut)] @ right).tocsr(), k), ranges), strict=True
    ):
        rows.append(part)
        progress(what, end, left.shape[0], {})
    return rows.matrix()


def _neighbours(walk: sparse.csr_matrix, start: int, k: int) -> sparse.csr_matrix:
    """Keep the diagonal and the largest k others; row r of `walk` is label start + r."""
    n, L = walk.shape
    row = np.repeat(np.arange(n), np.diff(walk.indptr))
    own = walk.indices == start + row
    diagonal = sparse.csr_matrix((walk.data[own], (row[own], walk.indices[own])), shape=(n, L))
    others = sparse.csr_matrix((np.where(own, np.float32(0), walk.data), walk.indices, walk.indptr), shape=(n, L))
    kept: sparse.csr_matrix = float32(diagonal) + float32(top_k(others, k))
    return kept


def _row_stochastic(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    sums = np.asarray(matrix.sum(axis=1), dtype=np.float64).ravel()
    scaled = matrix.astype(np.float64)
    scaled.data /= np.repeat(sums, np.diff(matrix.indptr))
    return scaled


def _inverse_root(sums: npt.NDArray[np.floating]) -> sparse.dia_matrix:
    """The diagonal matrix of 1 / √sum, with 0 where the sum is 0."""
    flat = np.asarray(sums, dtype=np.float64).ravel()
    return sparse.diags(np.divide(1.0, np.sqrt(flat), out=np.zeros_like(flat), where=flat > 0))
