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
