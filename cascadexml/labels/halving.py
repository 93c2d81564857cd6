"""Balanced spherical 2-means: nodes of labels halved again and again, the same tree whatever the order of the work.

A large node is halved over its sparse rows, a very large one over some of them first. From `GRAM` labels on down a
node's cosines are computed once, K = Z Zᵀ, and all halvings below it read them alone: with s the sum of a half's unit
rows, z_l · s is a sum over row l of K, and |s|² one over a block. That is the same computation, at a cost that no
longer depends on the number of features.
"""

from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.labels.threads import in_threads

GRAM = 512
"""Labels of the largest node whose cosines are all computed: a matrix of 1 MB."""
DEAR = 48
"""A node's cosines are not computed where they take so many products an entry: all halvings below take as many."""
SAMPLE = 2**14
"""Of a larger node so many labels find the two halves' directions."""
REFINEMENTS = 2
"""Assignments of all labels of such a node."""
ITERATIONS = 20
"""The most assignments a halving tries; most come to rest sooner."""
MOVED = 4
"""Where fewer than one in so many labels change halves, the halves' sums are corrected, not made anew."""
DENSE = 4
"""A node with so many entries a column keeps all columns: leaving out the few that are empty would not pay."""
CHUNK = 2**13
"""Rows of a very large node that are taken at a time."""

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Marks = npt.NDArray[np.bool_]


def random_of(seed: int, depth: int, node: int) -> np.random.Generator:
    """The generator of one node of the tree."""
    return np.random.default_rng([seed, depth, node])


class Halver:
    """Halves nodes of labels.

    Args:
        Z: (L, V) float32, rows of length 1 or empty.
        seed: with a node's depth and number it decides which labels a halving starts from.
    """

    def __init__(self, Z: sparse.csr_matrix, seed: int) -> None:
        self.Z, self.seed = Z, seed

    def halve(self, numbered: tuple[int, Rows], depth: int, depths: int) -> Rows:
        """Reorder a node's label rows by all halvings from `depth` on to `depths`.

        Of n rows the first n // 2 are one child, the rest the other; each child's are rising.

        Args:
            numbered: which node of its depth it is, and its (n,) label rows, rising.
            depth: how many halvings lie above it.
            depths: how many halvings a leaf has above it.
        """
        node, rows = numbered
        if rows.size <= SAMPLE:
            return rows[self._order(_narrowed(self.Z[rows]), depth, node, depths)]
        first = self._halved_by_some(rows, random_of(self.seed, depth, node))
        halves = [rows[first], rows[~first]]
        if depth + 1 < depths:
            halves = [self.halve((2 * node + i, half), depth + 1, depths) for i, half in enumerate(halves)]
        return np.concatenate(halves)

    def _order(self, Z: sparse.csr_matrix, depth: int, node: int, depths: int) -> Rows:
        """The order of a node's n rows (n, columns) after all halvings below."""
        if Z.shape[0] <= GRAM and _products(Z) <= DEAR * Z.nnz:
            places = np.arange(Z.shape[0])
            return self._order_within((Z @ Z.T).toarray(), np.diff(Z.indptr) > 0, places, depth, node, depths)
        seeds = _seeds(np.diff(Z.indptr) > 0, random_of(self.seed, depth, node))
        first = _two_means(Z, _row(Z, seeds[0]) - _row(Z, seeds[1]))[1]
        halves = [np.flatnonzero(first), np.flatnonzero(~first)]
        if depth + 1 < depths:
            halves = [
                half[self._order(_narrowed(Z[half]), depth + 1, 2 * node + i, depths)] for i, half in enumerate(halves)
            ]
        return np.concatenate(halves)

    def _order_within(self, K: Floats, filled: Marks, places: Rows, depth: int, node: int, depths: int) -> Rows:
        """The order of `places`, some of the rows and columns of K, after all halvings below."""
        if depth == depths:
            return places
        within = K if places.size == K.shape[0] else K[np.ix_(places, places)]
        first = _halved_by_cosines(within, _seeds(filled[places], random_of(self.seed, depth, node)))
        halves = (places[first], places[~first])
        return np.concatenate(
            [self._order_within(K, filled, half, depth + 1, 2 * node + i, depths) for i, half in enumerate(halves)]
        )

    def _halved_by_some(self, rows: Rows, random: np.random.Generator) -> Marks:
        """Which of a very large node's n rows are the first child, by the directions that some of them find."""
        seeds = _seeds(np.diff(self.Z.indptr)[rows] > 0, random)
        apart = _row(self.Z, rows[seeds[0]]) - _row(self.Z, rows[seeds[1]])
        apart, _ = _two_means(self.Z[rows[np.sort(random.choice(rows.size, SAMPLE, replace=False))]], apart)
        chunks = [slice(start, start + CHUNK) for start in range(0, rows.size, CHUNK)]
        for refinement in range(REFINEMENTS):
            first = _upper_half(np.concatenate(list(in_threads(partial(self._scores, rows, apart), chunks))))
            if refinement + 1 < REFINEMENTS:
                sums = np.array(list(in_threads(partial(self._sums, rows, first), chunks))).sum(axis=0)
                apart = _unit(sums[0]) - _unit(sums[1])
        return first

    def _scores(self, rows: Rows, apart: Floats, chunk: slice) -> Floats:
        scores: Floats = self.Z[rows[chunk]] @ apart
        return scores

    def _sums(self, rows: Rows, first: Marks, chunk: slice) -> tuple[Floats, Floats]:
        """The sums of a chunk's rows in the first half, and in the other."""
        Z, members = self.Z[rows[chunk]], first[chunk]
        return _sum(Z, members), _sum(Z, ~members)


def _narrowed(Z: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows over the columns that occur in them, in their order, so that a small node costs little."""
    if Z.nnz >= DENSE * Z.shape[1]:
        return Z
    occurs = np.zeros(Z.shape[1], dtype=bool)
    occurs[Z.indices] = True
    places = np.cumsum(occurs, dtype=Z.indices.dtype) - 1
    return sparse.csr_matrix((Z.data, places[Z.indices], Z.indptr), shape=(Z.shape[0], int(occurs.sum())))


def _two_means(Z: sparse.csr_matrix, apart: Floats) -> tuple[Floats, Marks]:
    """Balanced 2-means from the difference of two directions: the difference that it ends with, and the first half."""
    total, inside = _sum(Z, np.ones(Z.shape[0], dtype=bool)), np.zeros(Z.shape[1], dtype=np.float32)
    first = np.zeros(Z.shape[0], dtype=bool)
    for _ in range(ITERATIONS):
        before, first = first, _upper_half(Z @ apart)
        moved = np.flatnonzero(first != before)
        if not moved.size:
            break
        if MOVED * moved.size < first.size:
            inside += np.where(first[moved], np.float32(1), np.float32(-1)) @ Z[moved]
        else:
            inside = _sum(Z, first)
        apart = _unit(inside) - _unit(total - inside)
    return apart, first


def _products(Z: sparse.csr_matrix) -> int:
    """Products that Z Zᵀ takes."""
    return int(np.square(np.bincount(Z.indices)).sum())


def _halved_by_cosines(K: Floats, seeds: Rows) -> Marks:
    """`_two_means` by the (n, n) cosines of a node's labels alone: which are the first child."""
    scores, total = K[seeds[0]] - K[seeds[1]], K.sum(1)
    first = np.zeros(len(K), dtype=bool)
    for _ in range(ITERATIONS):
        before, first = first, _upper_half(scores)
        if np.array_equal(first, before):
            break
        inside = K @ first.astype(np.float32)
        outside = total - inside
        scores = inside / _length(inside, first) - outside / _length(outside, ~first)
    return first


def _length(products: Floats, members: Marks) -> np.float32:
    """Of a sum of rows, from its products with all rows; not 0."""
    return np.float32(np.sqrt(max(products[members].sum(dtype=np.float64), 1e-24)))


def _seeds(filled: Marks, random: np.random.Generator) -> Rows:
    """Two of a node's labels that have features, or twice its first."""
    full = np.flatnonzero(filled)
    return random.choice(full, 2, replace=False) if full.size > 1 else np.zeros(2, dtype=np.int64)


def _upper_half(scores: Floats) -> Marks:
    """Mark the n // 2 greatest of n scores."""
    marked = np.zeros(scores.size, dtype=bool)
    # A stable sort settles ties by the lower row: the result is one whatever the machine's threads.
    marked[np.argsort(-scores, kind="stable")[: scores.size // 2]] = True
    return marked


def _row(Z: sparse.csr_matrix, row: np.int64) -> Floats:
    vector: Floats = Z[int(row)].toarray().ravel()
    return vector


def _sum(Z: sparse.csr_matrix, members: Marks) -> Floats:
    return np.asarray(members.astype(np.float32) @ Z, dtype=np.float32)


def _unit(vector: Floats) -> Floats:
    """The vector at length 1; zero stays zero."""
    # Not np.linalg.norm: its last bit may depend on the number of BLAS threads.
    length = np.sqrt(np.square(vector, dtype=np.float64).sum())
    return np.asarray(vector / max(length, 1e-12), dtype=np.float32)
