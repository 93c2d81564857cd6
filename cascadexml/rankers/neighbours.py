"""A baseline that is hard to beat: the labels of similar training documents."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from cascadexml.bundle import Bundle
from cascadexml.checked_json import whole
from cascadexml.data.sparse_files import checked_csr
from cascadexml.errors import FormatError
from cascadexml.labels.tfidf import Tfidf, whole_words
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import BATCH_SIZE, FORMATS, Documents
from cascadexml.rankers.search import InvertedIndex
from cascadexml.ranking import NO_LABEL, Ranking

FORMAT = FORMATS["neighbours"]
LONGEST = 1.01
"""An entry of a row of length 1, up to rounding."""
MOST_NEIGHBOURS = 10_000
"""That a file may name: so many are kept of every text."""
_CELLS_A_CHUNK = 1 << 25


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """Labels by the votes of the nearest training documents, by cosine of TF-IDF over words and word pairs.

    A label's score is the similarity of the neighbours that have it over that of all neighbours, in (0, 1].

    Attributes:
        tfidf: texts → TF-IDF.
        X: (N, V) float32, the training documents.
        Y: (N, L) their labels.
        neighbours: how many vote.
    """

    tfidf: Tfidf
    X: sparse.csr_matrix
    Y: sparse.csr_matrix
    neighbours: int

    kind: ClassVar = "neighbours"

    @property
    def L(self) -> int:  # noqa: N802
        """How many labels it ranks."""
        return int(self.Y.shape[1])

    @classmethod
    def fit(
        cls,
        documents: Documents,
        Y: sparse.csr_matrix,
        neighbours: int,
        *,
        ngrams: int = 2,
        min_df: int = 2,
        max_features: int = 500_000,
        opening: int = 0,
    ) -> Self:
        """Index the training documents.

        Args:
            documents: N documents.
            Y: (N, L) their labels.
            neighbours: how many vote.
            ngrams, min_df, max_features, opening: of `Tfidf.fit`.
        """
        tfidf, X = Tfidf.fit(documents.texts, ngrams, min_df, max_features, opening)
        return cls(tfidf, X, Y, neighbours)

    @cached_property
    def _index(self) -> InvertedIndex:
        return InvertedIndex(sparse.csr_matrix(self.X.T))

    def rank(self, documents: Documents, K: int, *, progress: Progress = silent) -> Ranking:
        """The K labels of most votes for each of N documents, NO_LABEL where fewer labels have a vote."""
        return self.rank_rows(self.tfidf.transform(documents.texts), K, progress=progress)

    def rank_rows(self, X: sparse.csr_matrix, K: int, *, progress: Progress = silent) -> Ranking:
        """What `rank` gives, from the documents' (N, V) rows of `tfidf`."""
        N = X.shape[0]
        labels = np.full((N, K), NO_LABEL, dtype=np.int32)
        scores = np.full((N, K), -np.inf, dtype=np.float32)
        rows = max(1, _CELLS_A_CHUNK // max(self.X.shape[0], 1))
        for start in range(0, N, rows):
            part = X[start : start + rows]
            nearest = self._index.rank(part, self.neighbours)
            best = Ranking.from_scores(votes(nearest, self.Y), K)
            labels[start : start + rows], scores[start : start + rows] = best.labels, best.scores
            progress("nearest neighbours", min(start + rows, N), N, {})
        return Ranking(labels, scores)

    def cosines(self, text: str) -> npt.NDArray[np.float32]:
        """(N,) of a text and each training document; all 0 without a term that is known."""
        cosines: npt.NDArray[np.float32] = (self.tfidf.transform([text]) @ self._index.lists).toarray()[0]
        return cosines

    def save(self, folder: Path) -> None:
        """Write a bundle to `folder`: the terms as JSON, their idf and the two matrices as safetensors."""
        N, L = self.Y.shape
        meta = {
            "L": L,
            "documents": N,
            "neighbours": self.neighbours,
            "ngrams": self.tfidf.ngrams,
            "opening": self.tfidf.opening,
        }
        arrays = {
            f"{name}_{part}": getattr(matrix, part)
            for name, matrix in (("X", self.X), ("Y", self.Y))
            for part in ("data", "indices", "indptr")
        }
        with FORMAT.write(folder, meta) as new:
            self.tfidf.save(new)
            save_file(arrays, new / "index.safetensors")

    @classmethod
    def load(cls, place: Path | Bundle, device: str = "auto", batch_size: int = BATCH_SIZE) -> Self:
        """Read what `save` wrote; `device` and `batch_size` change nothing.

        Raises:
            FormatError: it is truncated, tampered with, of another kind or version, or its parts do not fit.
        """
        found = FORMAT.read(place)
        try:
            N, L, neighbours = (whole(found.meta, key) for key in ("documents", "L", "neighbours"))
            tfidf = Tfidf.load(found.path, *whole_words(found.meta))
            arrays = load_file(found.path / "index.safetensors")
            if not 1 <= neighbours <= MOST_NEIGHBOURS:
                raise ValueError(f"neighbours is {neighbours}, expected from 1 to {MOST_NEIGHBOURS}")
            X, Y = (
                checked_csr(arrays[f"{name}_data"], arrays[f"{name}_indices"], arrays[f"{name}_indptr"], shape)
                for name, shape in (("X", (N, tfidf.V)), ("Y", (N, L)))
            )
            if X.dtype != np.float32 or (np.abs(X.data) > LONGEST).any():
                raise ValueError(f"X is of {X.dtype}, expected float32 and rows of length 1")
            check_labels(Y)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise FormatError(
                f"{found.path} cannot be read as an index of documents ({error}): make it again."
            ) from None
        return cls(tfidf, X, Y, neighbours)


def check_labels(Y: sparse.csr_matrix) -> None:
    """Refuse, by a ValueError, labels of documents that count less than 0 or more than 1."""
    if ((Y.data < 0) | (Y.data > 1)).any():
        raise ValueError("a label of a document counts less than 0 or more than 1")


def votes(nearest: Ranking, Y: sparse.csr_matrix) -> sparse.csr_matrix:
    """Each label's share of the weight of the documents nearest to a text: (B, L), rows that sum to labels a document.

    Args:
        nearest: (B, neighbours) rows of Y, scored by their weight in the vote; those without weight have no say.
        Y: (N, L) the documents' labels.
    """
    found = (nearest.labels != NO_LABEL) & (nearest.scores > 0)
    weight = np.where(found, nearest.scores, 0.0).astype(np.float64)
    shares = (weight / np.maximum(weight.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny))[found]
    # SciPy's product would make arrays of all labels at each call, which takes longer than all else for one text.
    (B, _), L = found.shape, Y.shape[1]
    documents, voters = np.nonzero(found)[0], nearest.labels[found]
    counts = Y.indptr[voters + 1] - Y.indptr[voters]
    ends = counts.cumsum()
    entries = np.repeat(Y.indptr[voters] - ends + counts, counts) + np.arange(counts.sum())
    keys, own = np.unique(np.repeat(documents, counts) * L + Y.indices[entries], return_inverse=True)
    sums = np.bincount(own, weights=np.repeat(shares, counts) * Y.data[entries], minlength=keys.size)
    return sparse.csr_matrix((sums, keys % L, np.searchsorted(keys, np.arange(B + 1) * L)), shape=(B, L))
