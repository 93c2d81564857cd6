"""A baseline that is hard to beat: the labels of similar training documents."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from cascadexml.bundle import Bundle
from cascadexml.data.sparse_files import checked_csr
from cascadexml.errors import FormatError
from cascadexml.labels.features import fit_tfidf, tfidf_of
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import BATCH_SIZE, FORMATS, Documents
from cascadexml.ranking import NO_LABEL, Ranking

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

FORMAT = FORMATS["neighbours"]
_CELLS_A_CHUNK = 1 << 25


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """Labels by the votes of the nearest training documents, by cosine of TF-IDF over words and word pairs.

    A label's score is the similarity of the neighbours that have it over that of all neighbours, in (0, 1].

    Attributes:
        vectorizer: texts → TF-IDF.
        X: (N, V) float32, the training documents.
        Y: (N, L) their labels.
        neighbours: how many vote.
    """

    vectorizer: "TfidfVectorizer"
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
    ) -> Self:
        """Index the training documents.

        Args:
            documents: N documents.
            Y: (N, L) their labels.
            neighbours: how many vote.
            ngrams, min_df, max_features: of `cascadexml.labels.features.fit_tfidf`.
        """
        vectorizer, X = fit_tfidf(documents.texts, ngrams, min_df, max_features)
        return cls(vectorizer, X, Y, neighbours)

    @cached_property
    def _index(self) -> sparse.csr_matrix:
        return sparse.csr_matrix(self.X.T)

    def rank(self, documents: Documents, K: int, *, progress: Progress = silent) -> Ranking:
        """The K labels of most votes for each of N documents, NO_LABEL where fewer labels have a vote."""
        N = len(documents)
        labels = np.full((N, K), NO_LABEL, dtype=np.int32)
        scores = np.full((N, K), -np.inf, dtype=np.float32)
        if not N:
            return Ranking(labels, scores)
        queries = self.vectorizer.transform(documents.texts).astype(self.X.dtype)
        rows = max(1, _CELLS_A_CHUNK // max(self.X.shape[0], 1))
        for start in range(0, N, rows):
            part = queries[start : start + rows]
            nearest = Ranking.from_scores(sparse.csr_matrix(part @ self._index), self.neighbours)
            best = Ranking.from_scores(self._votes(nearest), K)
            labels[start : start + rows], scores[start : start + rows] = best.labels, best.scores
            progress("nearest neighbours", min(start + rows, N), N, {})
        return Ranking(labels, scores)

    def _votes(self, nearest: Ranking) -> sparse.csr_matrix:
        found = (nearest.labels != NO_LABEL) & (nearest.scores > 0)
        similarity = np.where(found, nearest.scores, 0.0).astype(np.float64)
        shares = similarity / np.maximum(similarity.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        weights = sparse.csr_matrix(
            (shares[found], nearest.labels[found], np.concatenate([[0], found.sum(axis=1).cumsum()])),
            shape=(found.shape[0], self.X.shape[0]),
        )
        return sparse.csr_matrix(weights @ self.Y)

    def save(self, folder: Path) -> None:
        """Write a bundle to `folder`: the terms as JSON, their idf and the two matrices as safetensors."""
        N, L = self.Y.shape
        meta = {
            "L": L,
            "documents": N,
            "neighbours": self.neighbours,
            "ngrams": self.vectorizer.ngram_range[1],
        }
        columns = self.vectorizer.vocabulary_
        arrays = {
            f"{name}_{part}": getattr(matrix, part)
            for name, matrix in (("X", self.X), ("Y", self.Y))
            for part in ("data", "indices", "indptr")
        }
        with FORMAT.write(folder, meta) as new:
            terms = json.dumps(sorted(columns, key=columns.__getitem__), ensure_ascii=False, indent=0)
            (new / "terms.json").write_text(terms + "\n", encoding="utf-8")
            save_file(arrays | {"idf": self.vectorizer.idf_}, new / "index.safetensors")

    @classmethod
    def load(cls, place: Path | Bundle, device: str = "auto", batch_size: int = BATCH_SIZE) -> Self:
        """Read what `save` wrote; `device` and `batch_size` change nothing.

        Raises:
            FormatError: it is truncated, tampered with, of another kind or version, or its parts do not fit.
        """
        found = FORMAT.read(place)
        try:
            N, L, neighbours, ngrams = (int(found.meta[key]) for key in ("documents", "L", "neighbours", "ngrams"))
            terms = json.loads((found.path / "terms.json").read_text(encoding="utf-8"))
            arrays = load_file(found.path / "index.safetensors")
            if not isinstance(terms, list):
                raise ValueError("terms.json is no list")
            if min(neighbours, ngrams) < 1:
                raise ValueError(f"{neighbours} neighbours and terms of {ngrams} words, expected at least 1 of each")
            X, Y = (
                checked_csr(arrays[f"{name}_data"], arrays[f"{name}_indices"], arrays[f"{name}_indptr"], shape)
                for name, shape in (("X", (N, len(terms))), ("Y", (N, L)))
            )
            vectorizer = tfidf_of(terms, arrays["idf"], ngrams)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise FormatError(
                f"{found.path} cannot be read as an index of documents ({error}): make it again."
            ) from None
        return cls(vectorizer, X, Y, neighbours)
