"""The labels of the training documents that lie nearest in the trained encoder's space.

What a network learnt lies in its weights and, more exactly, in the vectors that it gives its training documents: to
look these up helps above all with labels of few documents (kNN-LM, Khandelwal et al., 2020; RAE-XMC, 2025). No text is
kept, and a document joins without any training.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from cascadexml.bundle import Bundle, Format
from cascadexml.checked_json import whole
from cascadexml.data.sparse_files import checked_csr
from cascadexml.errors import FormatError
from cascadexml.rankers.neighbours import MOST_NEIGHBOURS, check_labels, votes
from cascadexml.ranking import NO_LABEL, Ranking

FORMAT = Format("cascadexml.vectors", 1)
SHARPNESS = 8.0
"""A neighbour votes with the cosine to this power: the vectors of a trained encoder are all alike to a degree."""
_CELLS_A_CHUNK = 1 << 25


@dataclass(frozen=True, eq=False)
class VectorIndex:
    """The vectors of N documents and their labels, searched exactly.

    Attributes:
        X: (N, d) float16, unit vectors; zeros of a document without content, which has no say.
        Y: (N, L) the documents' labels.
        neighbours: how many vote.
    """

    X: npt.NDArray[np.float16]
    Y: sparse.csr_matrix
    neighbours: int

    @classmethod
    def of(cls, vectors: npt.NDArray[np.float32], Y: sparse.csr_matrix, neighbours: int) -> Self:
        """Index N documents.

        Args:
            vectors: (N, d) as the encoder gives them, of any length.
            Y: (N, L) the documents' labels.
            neighbours: how many vote.
        """
        return cls(_units(vectors).astype(np.float16), Y, neighbours)

    @cached_property
    def _units(self) -> npt.NDArray[np.float32]:
        return self.X.astype(np.float32)

    def rank(self, vectors: npt.NDArray[np.float32], K: int) -> Ranking:
        """The K labels of most votes for each of N vectors (N, d): a label's score is its share of them, in (0, 1]."""
        nearest = self.nearest(vectors, self.neighbours)
        weight = np.where(nearest.labels == NO_LABEL, -np.inf, np.maximum(nearest.scores, 0) ** SHARPNESS)
        return Ranking.from_scores(votes(Ranking(nearest.labels, weight.astype(np.float32)), self.Y), K)

    def nearest(self, vectors: npt.NDArray[np.float32], k: int) -> Ranking:
        """The k documents of greatest cosine to each of N vectors (N, d), as rows of X; none to a vector of zeros."""
        N, count = len(vectors), min(k, len(self.X))
        rows = np.full((N, k), NO_LABEL, dtype=np.int32)
        cosines = np.full((N, k), -np.inf, dtype=np.float32)
        chunk = max(1, _CELLS_A_CHUNK // max(len(self.X), 1))
        for start in range(0, N, chunk):
            part = _units(vectors[start : start + chunk])
            products = part @ self._units.T
            best = np.argpartition(-products, count - 1, axis=1)[:, :count] if count else rows[:0, :0]
            value = np.take_along_axis(products, best, axis=1)
            order = np.lexsort((best, -value), axis=1)
            filled = slice(start, start + len(part))
            rows[filled, :count] = np.take_along_axis(best, order, axis=1)
            cosines[filled, :count] = np.take_along_axis(value, order, axis=1)
        blank = ~vectors.any(axis=1)
        rows[blank], cosines[blank] = NO_LABEL, -np.inf
        return Ranking(rows, cosines)

    def cosines(self, vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N,) of a vector (d,) and each document's; all 0 of a vector of zeros."""
        cosines: npt.NDArray[np.float32] = self._units @ _units(vector[None])[0]
        return cosines

    def save(self, folder: Path) -> None:
        """Write a bundle to `folder`."""
        N, L = self.Y.shape
        arrays = {f"Y_{part}": getattr(self.Y, part) for part in ("data", "indices", "indptr")}
        with FORMAT.write(folder, {"documents": N, "L": L, "neighbours": self.neighbours}) as new:
            save_file(arrays | {"X": self.X}, new / "index.safetensors")

    @classmethod
    def load(cls, place: Path | Bundle) -> Self:
        """Read what `save` wrote.

        Raises:
            FormatError: it is truncated, tampered with, of another kind or version, or its parts do not fit.
        """
        found = FORMAT.read(place)
        try:
            N, L, neighbours = (whole(found.meta, key) for key in ("documents", "L", "neighbours"))
            arrays = load_file(found.path / "index.safetensors")
            X, Y = arrays["X"], checked_csr(arrays["Y_data"], arrays["Y_indices"], arrays["Y_indptr"], (N, L))
            if X.dtype != np.float16 or X.ndim != 2 or len(X) != N or not np.isfinite(X).all():
                raise ValueError(f"X is {X.dtype} of {X.shape}, expected {N} finite rows of float16")
            check_labels(Y)
            if not 1 <= neighbours <= MOST_NEIGHBOURS:
                raise ValueError(f"neighbours is {neighbours}, expected from 1 to {MOST_NEIGHBOURS}")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise FormatError(f"{found.path} cannot be read as an index of vectors ({error}): make it again.") from None
        return cls(X, Y, neighbours)


def _units(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: npt.NDArray[np.float32] = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return units
