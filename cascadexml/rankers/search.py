"""Search in an inverted index: the columns of greatest product with a sparse vector, without a look at all entries.

Of a text's terms a few are common and stand in most columns, but say little of any. So rare terms are read first, and
as soon as what the rest can add no longer brings an unseen column among the best, it is looked up for the columns that
may still be (MaxScore: Turtle and Flood, 1995, "Query evaluation: strategies and optimizations"). The result is that of
the whole product, up to rounding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.ranking import NO_LABEL, Ranking, near_kth

SEARCHED = 1 << 17
"""Columns from which on there is a search instead of the whole product; where exactly it begins to be faster has
not been measured."""
FEW = 256
"""Columns up to which a search is worth it: for more it reads most entries, and that more slowly than the product."""
_SHARES = (16, 8, 4, 2, 1)
"""A search looks whether it may stop when it has read one in so many entries."""
_LOOK_UP = 16
"""Entries that can be read in the time that one takes to be looked up."""

Int = npt.NDArray[np.integer]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


class InvertedIndex:
    """For each of V terms the columns that it stands in, and how much it adds to any of them at most.

    Args:
        lists: (V, n) float32, the indices of each row rising.
        bias: (n,) what each column's product starts from; None for 0.
    """

    def __init__(self, lists: sparse.csr_matrix, bias: Float32 | None = None) -> None:
        self.lists, self.bias = lists, bias
        lengths = np.diff(lists.indptr)
        starts = lists.indptr[:-1][lengths > 0]
        self._low, self._high = np.zeros(lengths.size), np.zeros(lengths.size)
        if starts.size:
            self._low[lengths > 0] = np.minimum(np.minimum.reduceat(lists.data, starts), 0)
            self._high[lengths > 0] = np.maximum(np.maximum.reduceat(lists.data, starts), 0)
        self._start = np.zeros(lists.shape[1], dtype=np.float32)
        if bias is not None:
            # Of a column without entries no vector speaks, whatever its bias.
            spoken = np.bincount(lists.indices, minlength=lists.shape[1]) > 0
            self._start = np.where(spoken, bias, -np.inf).astype(np.float32)

    def rank(self, X: sparse.csr_matrix, k: int) -> Ranking:
        """The k columns of greatest product with each of N rows (N, V), none negative; ties go to the lower column.

        Columns that share no term with a row are not among them. Below `SEARCHED` columns, or for more than `FEW` of
        them, memory is up to N · n entries.
        """
        N = X.shape[0]
        if self.lists.shape[1] < SEARCHED or k > FEW:
            products = sparse.csr_matrix(X @ self.lists)
            if self.bias is not None:
                products.data += self.bias[products.indices]
            return Ranking.from_scores(products, k)
        columns, scores = np.full((N, k), NO_LABEL, dtype=np.int32), np.full((N, k), -np.inf, dtype=np.float32)
        for n in range(N):
            own = slice(X.indptr[n], X.indptr[n + 1])
            found, sums = self.best(X.indices[own], X.data[own], k)
            columns[n, : found.size], scores[n, : found.size] = found, sums
        return Ranking(columns, scores)

    def best(self, terms: Int, weights: npt.NDArray[np.floating], k: int) -> tuple[Int, Float32]:
        """The k columns of greatest product with one vector, best first, and the products.

        Args:
            terms: (T,) distinct rows of `lists`.
            weights: (T,) the vector's entries there, none negative.
            k: how many, from 1.
        """
        low, high = self._low[terms] * weights, self._high[terms] * weights
        starts, ends = (self.lists.indptr[of].astype(np.int64) for of in (terms, terms + 1))
        order = np.argsort((ends - starts) / np.maximum(high - low, np.finfo(np.float64).tiny), kind="stable")
        # Slices of a mapped array are mapped arrays again, which cost more to make than plain ones.
        columns, data = np.asarray(self.lists.indices), np.asarray(self.lists.data)
        lists = [
            _List(columns[start:end], data[start:end], weight)
            for start, end, weight in zip(starts[order], ends[order], weights[order].astype(np.float32), strict=True)
        ]
        return self._search(lists, np.append(low[order], 0.0), np.append(high[order], 0.0), k)

    def _search(self, lists: Sequence["_List"], low: Float64, high: Float64, k: int) -> tuple[Int, Float32]:
        """The best columns of T lists whose entries add between `low` and `high`, (T + 1,), the last 0."""
        adds, takes = np.cumsum(high[::-1])[::-1], np.cumsum(low[::-1])[::-1]
        entries, read = np.cumsum([0, *(each.columns.size for each in lists)]), 0
        sums = self._start.copy()
        for share in _SHARES:
            end = int(np.searchsorted(entries, entries[-1] // share, side="right")) - 1
            for columns, data, weight in lists[read:end]:
                sums[columns] += weight * data
            read = end
            bar = near_kth(sums, k)
            first = np.flatnonzero(sums >= bar)
            if read == len(lists):
                break
            # Columns that have only their bias yet may never be spoken of: they do not hold others off.
            if np.count_nonzero(sums[first] != self._start[first]) < k:
                continue
            may = np.flatnonzero(sums >= bar + takes[read] - adds[read])
            if _LOOK_UP * may.size * (len(lists) - read) <= entries[-1] - entries[read]:
                return self._look_up(lists[read:], may, sums[may], k)
        first = first[sums[first] != self._start[first]]
        if first.size < k:
            first = np.flatnonzero(sums != self._start)
        return _first(first, sums[first], k)

    def _look_up(self, lists: Sequence["_List"], columns: Int, sums: Float32, k: int) -> tuple[Int, Float32]:
        """The best of some rising columns, of whose sums these lists are not part yet."""
        found = sums != self._start[columns]
        for own, data, weight in lists:
            at = np.minimum(np.searchsorted(own, columns), own.size - 1)
            there = own[at] == columns
            sums[there] += weight * data[at[there]]
            found |= there
        return _first(columns[found], sums[found], k)


class _List(NamedTuple):
    """The (M,) columns of a term, rising, its entries there, and its weight in the vector."""

    columns: Int
    data: Float32
    weight: np.float32


def _first(columns: Int, scores: Float32, k: int) -> tuple[Int, Float32]:
    """The k of greatest score, best first; ties go to the lower column."""
    order = np.lexsort((columns, -scores))[:k]
    return columns[order], scores[order]
