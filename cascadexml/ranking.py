"""Ranking: for each document, its best K labels with scores. What every ranker gives and every metric takes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.errors import FormatError

NO_LABEL = -1


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
                kept = values >= np.partition(values, -K)[-K]
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
