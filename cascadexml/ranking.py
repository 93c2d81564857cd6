"""Ranking: for each document, its best K labels with scores. What every ranker gives and every metric takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.errors import FormatError

NO_LABEL = -1

_BLOCKS = 2048

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """The best K labels of N documents, best first.

    Attributes:
        labels: (N, K) int32, rows of the vocabulary; NO_LABEL (-1) fills places at the end of a short list.
        scores: (N, K) float32, falling along each row; -inf where `labels` is NO_LABEL.
    """

    labels: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or self.labels.shape != self.scores.shape:
            raise ValueError(f"labels {self.labels.shape} and scores {self.scores.shape} must be one (N, K) shape")

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        N, K = self.labels.shape
        return N, K

    @classmethod
    def from_scores(cls, scores: npt.NDArray[np.floating] | sparse.csr_matrix, K: int) -> "Ranking":
        """Rank a dense (N, L) array, or the stored entries of a CSR matrix; ties go to the lower row."""
        N = scores.shape[0]
        labels = np.full((N, K), NO_LABEL, dtype=np.int32)
        best = np.full((N, K), -np.inf, dtype=np.float32)
        for n in range(N):
            if sparse.issparse(scores):
                columns = scores.indices[scores.indptr[n] : scores.indptr[n + 1]]
                values = scores.data[scores.indptr[n] : scores.indptr[n + 1]]
            else:
                values = np.asarray(scores[n])
                columns = np.arange(values.shape[0], dtype=np.int32)
            if 0 < K < values.shape[0]:
                kept = values >= near_kth(values, K)
                columns, values = columns[kept], values[kept]
            order = np.lexsort((columns, -values))[:K]
            labels[n, : order.size] = columns[order]
            best[n, : order.size] = values[order]
        return cls(labels, best)

    def save(self, path: Path) -> None:
        """Write to `path` as an .npz without pickles."""
        with path.open("wb") as file:
            np.savez_compressed(file, labels=self.labels, scores=self.scores)

    @classmethod
    def load(cls, path: Path) -> "Ranking":
        """Read what `save` wrote.

        Raises:
            FormatError: the file is missing, damaged, or not a ranking.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(arrays["labels"], arrays["scores"])
        except Exception as error:
            raise FormatError(f"{path} cannot be read as a ranking ({error!r}): make it again.") from None


def near_kth(values: npt.NDArray[np.floating], k: int) -> float:
    """A number that the k greatest of (M,) values reach, and few others; -inf where there are fewer than k.

    Of many values it is the k-th greatest of the maxima of disjoint blocks, which takes one pass over them.
    """
    if values.size < k:
        return -np.inf
    blocks = max(_BLOCKS, 4 * k)
    if values.size >= 2 * blocks:
        # One value of each block in a row: what lies side by side, such as equal labels, is in blocks of its own.
        values = values[: values.size // blocks * blocks].reshape(-1, blocks).max(axis=0)
    return float(np.partition(values, -k)[-k])


def joined(rankings: Sequence[Ranking]) -> Ranking:
    """Rankings of documents that follow each other, as one."""
    return Ranking(
        np.concatenate([ranking.labels for ranking in rankings]),
        np.concatenate([ranking.scores for ranking in rankings]),
    )


def keys_of(labels: npt.NDArray[np.int32], L: int) -> Int64:
    """(M,) of each label that rankings (N, K) name, in their order: its document times L plus the label."""
    given = labels != NO_LABEL
    documents = np.repeat(np.arange(len(labels), dtype=np.int64), given.sum(axis=1))
    keys: Int64 = documents * L + labels[given]
    return keys


def scores_at(ranking: Ranking, keys: Int64, L: int) -> npt.NDArray[np.float64]:
    """(M,) scores, each 0 or more, of M labels of a ranking's documents; of one not named, the most it may have.

    That is the last place's score, or 0 where its ranking is short: then it names all that it has a score for.

    Args:
        ranking: (N, K).
        keys: as of `keys_of`.
        L: labels.
    """
    own = keys_of(ranking.labels, L)
    order = np.argsort(own)
    given = ranking.labels != NO_LABEL
    own, scores = own[order], ranking.scores[given][order]
    full = given.all(axis=1) & bool(given.shape[1])
    last = np.where(full, ranking.scores[:, -1:].max(axis=1, initial=0.0), 0.0)
    at = np.searchsorted(own, keys)
    named = np.zeros(keys.size, dtype=bool)
    inside = at < own.size
    named[inside] = own[at[inside]] == keys[inside]
    score = last[keys // L].astype(np.float64)
    score[named] = scores[at[named]]
    return score
