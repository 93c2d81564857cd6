"""Balanced spherical 2-means: nodes of labels halved again and again, the same tree whatever the order of the work.

A large node is halved over its sparse rows, a very large one over some of them first. From `GRAM` labels on down a
node's cosines are computed once, K = Z Zᵀ, and all halvings below it read them alone: with s the sum of a half's unit
rows, z_l · s is a sum over row l of K, and |s|² one over a block. That is the same computation, at a cost that no
longer depends on the number of features.
"""

import threading

import numpy as np
import numpy.typing as npt
from scipy import sparse

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
        self.filled = np.diff(Z.indptr) > 0
        self.scratch = threading.local()

    def halve(self, numbered: tuple[int, Rows], depth: int, depths: int) -> Rows:
        """Reorder a node's label rows by all halvings from `depth` on to `depths`.

        Of n rows the first n // 2 are one child, the rest the other; each child's are rising.

        Args:
            numbered: which node of its depth it is, and its (n,) label rows, rising.
            depth: how many halvings lie above it.
            depths: how many halvings a leaf has above it.
        """
        node, rows = numbered
        Z = self._within(rows)
        if rows.size <= GRAM and _products(Z) <= DEAR * Z.nnz:
            return rows[self._halve_within((Z @ Z.T).toarray(), np.arange(rows.size), rows, depth, node, depths)]
        first = self._halved(Z, self.filled[rows], random_of(self.seed, depth, node))
        halves = [rows[first], rows[~first]]
        if depth + 1 < depths:
            halves = [self.halve((2 * node + i, half), depth + 1, depths) for i, half in enumerate(halves)]
        return np.concatenate(halves)

    def _halved(self, Z: sparse.csr_matrix, filled: Marks, random: np.random.Generator) -> Marks:
        """Which of a node's n rows are the first child, by its rows (n, columns)."""
        n = Z.shape[0]
        seeds = _seeds(filled, random)
        apart = _sum(Z, np.arange(n) == seeds[0]) - _sum(Z, np.arange(n) == seeds[1])
        if n > SAMPLE:
            few = Z[np.sort(random.choice(n, SAMPLE, replace=False))]
            apart, _ = _two_means(few, apart, ITERATIONS)
            return _two_means(Z, apart, REFINEMENTS)[1]
        return _two_means(Z, apart, ITERATIONS)[1]

    def _halve_within(self, K: Floats, places: Rows, rows: Rows, depth: int, node: int, depths: int) -> Rows:
        """The order of `places`, some of the rows and columns of K, after all halvings below; `rows` are K's labels."""
        if depth == depths:
            return places
        within = K if places.size == K.shape[0] else K[np.ix_(places, places)]
        seeds = _seeds(self.filled[rows[places]], random_of(self.seed, depth, node))
        first = _halved_by_cosines(within, seeds)
        halves = (places[first], places[~first])
        return np.concatenate(
            [self._halve_within(K, half, rows, depth + 1, 2 * node + i, depths) for i, half in enumerate(halves)]
        )

    def _within(self, rows: Rows) -> sparse.csr_matrix:
        """A node's rows over the columns that occur in it, so that a small node costs little."""
        if rows.size == self.Z.shape[0]:
            return self.Z
        chosen = self.Z[rows]
        columns = np.unique(chosen.indices)
        if not hasattr(self.scratch, "places"):
            self.scratch.places = np.empty(self.Z.shape[1], dtype=self.Z.indices.dtype)
        places = self.scratch.places
        places[columns] = np.arange(columns.size, dtype=places.dtype)
        shape = (rows.size, columns.size)
        return sparse.csr_matrix((chosen.data, places[chosen.indices], chosen.indptr), shape=shape)


def _two_means(Z: sparse.csr_matrix, apart: Floats, iterations: int) -> tuple[Floats, Marks]:
    """Balanced 2-means from the difference of two directions: the difference that it ends with, and the first half."""
    total, first = _sum(Z, np.ones(Z.shape[0], dtype=bool)), np.zeros(Z.shape[0], dtype=bool)
    for _ in range(iterations):
        before, first = first, _upper_half(Z @ apart)
        if np.array_equal(first, before):
            break
        inside = _sum(Z, first)
        apart = _unit(inside) - _unit(total - inside)
    return apart, first


def _products(Z: sparse.csr_matrix) -> int:
    """Products that Z Zᵀ takes."""
    return int(np.square(np.bincount(Z.indices)).sum())


def _halved_by_cosines(K: Floats, seeds: Rows) -> Marks:
    """`Halver._halved` by the (n, n) cosines of a node's labels alone: which are the first child."""
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


def _sum(Z: sparse.csr_matrix, members: Marks) -> Floats:
    return np.asarray(members.astype(np.float32) @ Z, dtype=np.float32)


def _unit(vector: Floats) -> Floats:
    """The vector at length 1; zero stays zero."""
    # Not np.linalg.norm: its last bit may depend on the number of BLAS threads.
    length = np.sqrt(np.square(vector, dtype=np.float64).sum())
    return np.asarray(vector / max(length, 1e-12), dtype=np.float32)
