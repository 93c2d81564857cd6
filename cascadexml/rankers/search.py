"""Search in an inverted index: the columns of greatest product with a sparse vector.

The product with one vector is a sum of as many lists as the vector has terms. They are added up in a dense array of
all columns, which is faster than SciPy's sparse product, as that looks for each entry's place in a sparse one. The few
terms that stand in most columns make up most of the entries and say little of any column: where no entry is negative,
they are not read. As soon as what the rest can add no longer brings an unseen column among the best, it is looked up
for the columns that may still be (MaxScore: Turtle and Flood, 1995, "Query evaluation: strategies and optimizations").
The result is that of the whole product, up to rounding.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.ranking import NO_LABEL, Ranking, near_kth

SEARCHED = 1 << 16
"""Columns from which on there is a search instead of the whole product: with fewer it is not faster for each ranker,
as `python -m benchmarks.wide --only search --folder FOLDER` shows after a run of its other parts."""
_READ = 8
"""One in so many entries is read before what the rest can add is compared with what is needed."""
_LONG = 8
"""Lists that hold more than half of the entries, at most, where it is worth it to leave the longest unread."""
_LOOK_UP = 32
"""Entries that can be read in the time that one takes to be looked up."""

Int = npt.NDArray[np.integer]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


class InvertedIndex:
    """For each of V terms the columns that it stands in.

    Args:
        lists: (V, n) float32, the indices of each row rising.
        bias: (n,) what each column's product starts from; None for 0.
        most: what a product counts at most; None without a bound.
        searched: whether there is a search; None: from `SEARCHED` columns on.
    """

    def __init__(
        self,
        lists: sparse.csr_matrix,
        bias: Float32 | None = None,
        *,
        most: float | None = None,
        searched: bool | None = None,
    ) -> None:
        self.lists, self.bias, self.most = lists, bias, most
        self.searched = lists.shape[1] >= SEARCHED if searched is None else searched
        self._start: Float32 | None = None
        self._high: Float64 | None = None
        if not self.searched:
            return
        if bias is not None:
            # Of a column without entries no vector speaks, whatever its bias.
            spoken = np.bincount(lists.indices, minlength=lists.shape[1]) > 0
            self._start = np.where(spoken, bias, -np.inf).astype(np.float32)
        elif lists.nnz and lists.data.min() >= 0 and lists.has_canonical_format:
            # Entries of either sign bound little: of classifiers' weights most would be read all the same.
            filled = np.diff(lists.indptr) > 0
            self._high = np.zeros(filled.size)
            self._high[filled] = np.maximum.reduceat(lists.data, lists.indptr[:-1][filled])

    def rank(self, X: sparse.csr_matrix, k: int) -> Ranking:
        """The k columns of greatest product with each of N rows (N, V), none negative; ties go to the lower column.

        Columns that share no term with a row are not among them, nor are those whose entries cancel out. Without a
        search memory is up to N · n entries.
        """
        N = X.shape[0]
        if not self.searched:
            products = sparse.csr_matrix(X @ self.lists)
            if self.bias is not None:
                products.data += self.bias[products.indices]
            if self.most is not None:
                np.minimum(products.data, self.most, out=products.data)
            return Ranking.from_scores(products, k)
        columns, scores = np.full((N, k), NO_LABEL, dtype=np.int32), np.full((N, k), -np.inf, dtype=np.float32)
        for n in range(N):
            own = slice(X.indptr[n], X.indptr[n + 1])
            terms, weights = X.indices[own], X.data[own].astype(np.float32)
            found, sums = self._some_read(terms, weights, k) or self._all_read(terms, weights, k)
            # Found columns rise, so that of equal ones the lower stays before the other.
            best = np.argsort(-sums, kind="stable")[:k]
            columns[n, : best.size], scores[n, : best.size] = found[best], sums[best]
        return Ranking(columns, scores)

    def _sums(self, terms: Int, weights: Float32) -> Float32:
        """(n,) the weighted sum of some lists, each column's entries added in the order of the terms."""
        sums: Float32 = self.lists[terms].T @ weights
        return sums

    def _bar(self, sums: Float32, k: int) -> float:
        """What the k best reach, which may be what all that count most do."""
        return min(near_kth(sums, k), np.inf if self.most is None else self.most)

    def _capped(self, sums: Float32) -> Float32:
        return sums if self.most is None else np.minimum(sums, np.float32(self.most))

    def _all_read(self, terms: Int, weights: Float32, k: int) -> tuple[Int, Float32]:
        """Rising columns, the k best among them, and their products, bit by bit those of SciPy's sparse product."""
        products = sums = self._sums(terms, weights)
        if self._start is not None:
            products = sums + self._start
        found = _reaching(products, self._bar(products, k))
        found = found[sums[found] != 0]
        if found.size < k:
            # Columns that no term speaks of may have held others off.
            spoken = np.flatnonzero(sums).astype(np.int32)
            found = spoken[_reaching(products[spoken], self._bar(products[spoken], k))]
        return found, self._capped(products[found])

    def _some_read(self, terms: Int, weights: Float32, k: int) -> tuple[Int, Float32] | None:
        """Rising columns, the k best among them, and their products, without a look at all entries.

        None where that would not be worth it.
        """
        n = self.lists.shape[1]
        lengths = (self.lists.indptr[terms + 1] - self.lists.indptr[terms]).astype(np.int64)
        # Each look at all columns takes about the time of as many entries.
        if self._high is None or lengths.sum() < n:
            return None
        high = self._high[terms] * weights
        order = np.argsort(lengths / np.maximum(high, np.finfo(np.float64).tiny), kind="stable")
        terms, weights, high = terms[order], weights[order], high[order]
        entries = np.append(0, lengths[order].cumsum())
        if entries[-1 - min(_LONG, terms.size)] > entries[-1] / 2:
            return None
        adds = np.append(high[::-1].cumsum()[::-1], 0.0)
        read = int(np.searchsorted(entries, entries[-1] // _READ, side="right")) - 1
        sums = self._sums(terms[:read], weights[:read])
        bar = self._bar(sums, k)
        # Few columns are half as good as the best, so that the rest is to be looked up for few.
        enough = max(read, int(np.searchsorted(-adds, -bar / 2)))
        if bar <= 0 or 2 * entries[enough] > entries[-1]:
            return None
        if enough > read:
            sums += self._sums(terms[read:enough], weights[read:enough])
            bar = self._bar(sums, k)
        # Sums of as many entries in another order differ by less than this share.
        rounding = 2 * terms.size * np.finfo(np.float32).eps
        may = _reaching(sums, bar * (1 - rounding) - adds[enough])
        if _LOOK_UP * may.size * (terms.size - enough) > entries[-1] - entries[enough]:
            return None
        return may, self._capped(self._looked_up(terms[enough:], weights[enough:], may, sums[may]))

    def _looked_up(self, terms: Int, weights: Float32, columns: Int, sums: Float32) -> Float32:
        """The products of some rising columns, of whose sums these lists are not part yet."""
        ends = self.lists.indptr
        for term, weight in zip(terms.tolist(), weights, strict=True):
            own, data = (part[ends[term] : ends[term + 1]] for part in (self.lists.indices, self.lists.data))
            at = np.minimum(np.searchsorted(own, columns), own.size - 1)
            there = own[at] == columns
            sums[there] += weight * data[at[there]]
        return sums


def _reaching(values: Float32, bar: float) -> npt.NDArray[np.int32]:
    """Rising places of the values from a bar on, in the type of a sparse matrix's indices."""
    return np.flatnonzero(values >= np.float32(bar)).astype(np.int32)
