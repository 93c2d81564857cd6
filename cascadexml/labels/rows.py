"""Large sparse matrices by their rows, without a second copy of them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

GROWTH = 8
"""Where rows need more room, an eighth is added to it: room that is not used yet takes memory too."""
ENTRIES = 2**22
"""Entries whose squares are held at a time."""
UNIT = 1e-5
"""Rows whose length is so near to 1 are taken as they are: it is what float32 leaves of a normalised row."""


class Rows:
    """A sparse matrix in the making, rows after rows, held once: `sparse.vstack` holds them twice.

    Args:
        columns: of the matrix.
        dtype: of its entries.
    """

    def __init__(self, columns: int, dtype: type[np.floating]) -> None:
        self.columns, self.nnz = columns, 0
        self.data, self.indices, self.ends = np.empty(0, dtype), np.empty(0, np.int32), [np.zeros(1, np.int64)]

    def append(self, rows: sparse.csr_matrix) -> None:
        """Put rows behind those that are there."""
        end = self.nnz + rows.nnz
        if end > self.data.size:
            self._resize(end + end // GROWTH)
        self.data[self.nnz : end], self.indices[self.nnz : end] = rows.data, rows.indices
        self.ends.append(self.nnz + rows.indptr[1:].astype(np.int64))
        self.nnz = end

    def matrix(self) -> sparse.csr_matrix:
        """All rows; no more can follow."""
        self._resize(self.nnz)
        indptr = np.concatenate(self.ends)
        return sparse.csr_matrix((self.data, self.indices, indptr), shape=(indptr.size - 1, self.columns))

    def _resize(self, entries: int) -> None:
        self.data.resize(entries, refcheck=False)
        self.indices.resize(entries, refcheck=False)


def row_ranges(sizes: npt.NDArray[np.int64], budget: int) -> Iterator[tuple[int, int]]:
    """Cut rows into runs whose sizes sum to at most the budget, at least one row each."""
    ends = np.cumsum(sizes)
    start = 0
    while start < ends.size:
        before = ends[start - 1] if start else 0
        end = max(int(np.searchsorted(ends, before + budget, side="right")), start + 1)
        yield start, end
        start = end


def row_norms(matrix: sparse.csr_matrix) -> npt.NDArray[np.float32]:
    """The l2-norm of each row, (n,)."""
    norms = [sparse.linalg.norm(matrix[start:end], axis=1) for start, end in row_ranges(_lengths(matrix), ENTRIES)]
    return np.concatenate([np.zeros(0), *norms]).astype(np.float32)


def unit_rows(matrix: Any, *, in_place: bool = False) -> sparse.csr_matrix:
    """Rows at length 1, in float32 and without stored zeros; empty rows stay empty.

    Args:
        matrix: sparse; nothing is copied if there is nothing to do.
        in_place: whether its entries may be written over.
    """
    rows: sparse.csr_matrix = float32(matrix)
    norms, lengths = row_norms(rows), _lengths(rows)
    if np.all((np.abs(norms - 1) <= UNIT) | (norms == 0)):
        return rows
    data = rows.data if in_place else np.empty_like(rows.data)
    for start, end in row_ranges(lengths, ENTRIES):
        cut = slice(rows.indptr[start], rows.indptr[end])
        np.divide(rows.data[cut], np.repeat(norms[start:end], lengths[start:end]), out=data[cut])
    return sparse.csr_matrix((data, rows.indices, rows.indptr), shape=rows.shape)


def top_k(matrix: sparse.csr_matrix, k: int) -> sparse.csr_matrix:
    """The largest k entries of each row, none negative, told apart in float32; among equal ones those of lower columns.

    Args:
        matrix: (n, columns); its rows may be put into order.
        k: from 1.
    """
    counts = _lengths(matrix)
    large = counts > k
    if large.any():
        at = np.flatnonzero(np.repeat(large, counts))
        data, row = matrix.data[at].astype(np.float32), np.repeat(np.arange(large.sum()), counts[large])
        bars = kth_largest(data, counts[large], k)[row]
        keep, level = data > bars, np.flatnonzero(data == bars)
        level = level[np.lexsort((matrix.indices[at[level]], row[level]))]
        firsts = np.flatnonzero(np.diff(row[level], prepend=-1))
        rank = np.arange(level.size) - np.repeat(firsts, np.diff(firsts, append=level.size))
        room = k - np.bincount(row[keep], minlength=int(large.sum()))
        keep[level[rank < room[row[level]]]] = True
        kept = ~np.repeat(large, counts)
        kept[at[keep]] = True
        indptr = np.concatenate([[0], np.cumsum(np.minimum(counts, k))])
        matrix = sparse.csr_matrix((matrix.data[kept], matrix.indices[kept], indptr), shape=matrix.shape)
    matrix.sort_indices()
    return matrix


def kth_largest(data: npt.NDArray[np.floating], counts: npt.NDArray[np.integer], k: int) -> npt.NDArray[np.floating]:
    """The k-th largest value of each of n rows, which follow one another in `data`; -inf where a row has fewer.

    Args:
        data: the rows' values.
        counts: (n,) how many values each row has, at least 1.
        k: from 1.
    """
    found = np.full(counts.size, -np.inf, dtype=data.dtype)
    # Rows of like length are padded to the longest of them, so that padding at most doubles them.
    sizes = np.where(counts < k, -1, np.frexp(counts)[1])
    for size in np.unique(sizes[sizes >= 0]):
        chosen = sizes == size
        width = int(counts[chosen].max())
        padded = np.full((int(chosen.sum()), width), -np.inf, dtype=data.dtype)
        padded[np.arange(width) < counts[chosen][:, None]] = data[np.repeat(chosen, counts)]
        padded.partition(width - k, axis=1)
        found[chosen] = padded[:, width - k]
    return found


def _lengths(matrix: sparse.csr_matrix) -> npt.NDArray[np.int64]:
    """Entries of each row."""
    return np.diff(matrix.indptr).astype(np.int64)


def float32(matrix: Any) -> sparse.csr_matrix:
    """CSR in float32 without stored zeros, copied where it has to be."""
    kept: sparse.csr_matrix = sparse.csr_matrix(matrix, dtype=np.float32)
    if not kept.data.all():
        kept = kept.copy()
        kept.eliminate_zeros()
    return kept
