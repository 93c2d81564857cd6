"""What any model must beat: the most popular labels, and the labels of similar documents."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from cascadexml.labels.features import fit_tfidf
from cascadexml.progress import Progress, silent
from cascadexml.ranking import NO_LABEL, Ranking

_CELLS_A_CHUNK = 1 << 25


def popularity(Y_train: sparse.csr_matrix, N: int, K: int) -> Ranking:
    """Give each of N documents the K labels of most uses in train; a score is the share of train that has the label."""
    uses = np.bincount(Y_train.indices, minlength=Y_train.shape[1])
    best = np.argsort(-uses, kind="stable")[:K]
    best = best[uses[best] > 0]
    labels = np.full(K, NO_LABEL, dtype=np.int32)
    scores = np.full(K, -np.inf, dtype=np.float32)
    labels[: best.size] = best
    scores[: best.size] = uses[best] / Y_train.shape[0]
    return Ranking(np.tile(labels, (N, 1)), np.tile(scores, (N, 1)))


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """Labels by the votes of the nearest train documents, by cosine of TF-IDF over words and word pairs.

    A label's score is the similarity of the neighbours that have it over that of all neighbours, in (0, 1].
    """

    vectorizer: TfidfVectorizer
    X: sparse.csr_matrix
    Y: sparse.csr_matrix
    neighbours: int

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        Y: sparse.csr_matrix,
        neighbours: int,
        *,
        ngrams: int = 2,
        min_df: int = 2,
        max_features: int = 500_000,
    ) -> "NearestNeighbours":
        """Index the train documents.

        Args:
            texts: N texts.
            Y: (N, len(vocabulary)) their labels.
            neighbours: how many vote.
            ngrams, min_df, max_features: of `cascadexml.features.fit_tfidf`.
        """
        vectorizer, X = fit_tfidf(texts, ngrams, min_df, max_features)
        return cls(vectorizer, X, Y, neighbours)

    def rank(self, texts: Sequence[str], K: int, progress: Progress = silent) -> Ranking:
        """The K labels of most votes for each text: (len(texts), K), NO_LABEL where fewer labels have a vote."""
        queries = self.vectorizer.transform(texts).astype(self.X.dtype)
        index = sparse.csr_matrix(self.X.T)
        N = queries.shape[0]
        rows = max(1, _CELLS_A_CHUNK // max(self.X.shape[0], 1))
        labels = np.full((N, K), NO_LABEL, dtype=np.int32)
        scores = np.full((N, K), -np.inf, dtype=np.float32)
        for start in range(0, N, rows):
            part = queries[start : start + rows]
            nearest = Ranking.from_scores(sparse.csr_matrix(part @ index), self.neighbours)
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
