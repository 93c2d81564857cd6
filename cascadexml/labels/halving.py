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
SAMPLE = 2**13
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
            return self._order_by_cosines((Z @ Z.T).toarray(), np.diff(Z.indptr) > 0, depth, node, depths)
        seeds = _seeds(np.diff(Z.indptr) > 0, random_of(self.seed, depth, node))
        first = _two_means(Z, _row(Z, seeds[0]) - _row(Z, seeds[1]))[1]
        halves = [np.flatnonzero(first), np.flatnonzero(~first)]
        if depth + 1 < depths:
            halves = [
                half[self._order(_narrowed(Z[half]), depth + 1, 2 * node + i, depths)] for i, half in enumerate(halves)
            ]
        return np.concatenate(halves)

    def _order_by_cosines(self, K: Floats, filled: Marks, depth: int, node: int, depths: int) -> Rows:
        """The order of a node's n rows after all halvings below, by their (n, n) cosines; nodes of a depth at once."""
        n = len(K)
        # Sizes of a depth's nodes differ by one: the smaller ones end in a place that no label has.
        padded = np.zeros((n + 1, n + 1), dtype=np.float32)
        padded[:n, :n] = K
        places, has = np.arange(n)[None, :], np.append(filled, False)
        for below in range(depths - depth):
            numbers = range(node << below, (node + 1) << below)
            random = (random_of(self.seed, depth + below, number) for number in numbers)
            seeds = np.array([_seeds(has[own[own < n]], each) for own, each in zip(places, random, strict=True)])
            cosines = padded[places[:, :, None], places[:, None, :]]
            places = _children(places, _halved_by_cosines(cosines, places < n, seeds), n)
        return places[places < n]

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


def _halved_by_cosines(K: Floats, real: Marks, seeds: Rows) -> Marks:
    """`_two_means` of b nodes by their labels' cosines alone: which are the first child, (b, n).

    Args:
        K: (b, n, n), of places that no label has 0.
        real: (b, n) which places a label has.
        seeds: (b, 2) the places of the two labels that a node starts from.
    """
    node, halves = np.arange(len(K)), real.sum(1) // 2
    scores, total = K[node, seeds[:, 0]] - K[node, seeds[:, 1]], K.sum(2)
    first = np.zeros(real.shape, dtype=bool)
    for _ in range(ITERATIONS):
        before, first = first, _upper(np.where(real, scores, -np.inf), halves)
        if np.array_equal(first, before):
            break
        inside = (K @ first[:, :, None].astype(np.float32))[:, :, 0]
        outside = total - inside
        scores = inside / _lengths(inside, first) - outside / _lengths(outside, real & ~first)
    return first


def _children(places: Rows, first: Marks, n: int) -> Rows:
    """The places of b nodes' children, (2 b, at most), a first child before its second, filled up with n."""
    b, size = places.shape
    sizes, halves = (places < n).sum(1), first.sum(1)
    ordered = np.take_along_axis(places, np.argsort(~first, axis=1, kind="stable"), axis=1)
    children = np.full((2 * b, size - size // 2), n)
    at = np.arange(size)
    children[::2][at[: children.shape[1]] < halves[:, None]] = ordered[at < halves[:, None]]
    children[1::2][at[: children.shape[1]] < (sizes - halves)[:, None]] = ordered[
        (at >= halves[:, None]) & (at < sizes[:, None])
    ]
    return children


def _lengths(products: Floats, members: Marks) -> Floats:
    """Of sums of rows, from their products with all rows, (b, 1); not 0."""
    squares = np.where(members, products, np.float32(0)).sum(axis=1, dtype=np.float64, keepdims=True)
    lengths: Floats = np.sqrt(np.maximum(squares, 1e-24)).astype(np.float32)
    return lengths


def _seeds(filled: Marks, random: np.random.Generator) -> Rows:
    """Two of a node's labels that have features, or twice its first."""
    full = np.flatnonzero(filled)
    return random.choice(full, 2, replace=False) if full.size > 1 else np.zeros(2, dtype=np.int64)


def _upper_half(scores: Floats) -> Marks:
    """Mark the n // 2 greatest of n scores."""
    marked: Marks = _upper(scores[None, :], np.array([scores.size // 2]))[0]
    return marked


def _upper(scores: Floats, k: Rows) -> Marks:
    """Mark the k greatest of each of b rows of n scores; k is (b,)."""
    marked = np.zeros(scores.shape, dtype=bool)
    # A stable sort settles ties by the lower row: the result is one whatever the machine's threads.
    order = np.argsort(-scores, axis=1, kind="stable")
    np.put_along_axis(marked, order, np.arange(scores.shape[1]) < k[:, None], axis=1)
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
