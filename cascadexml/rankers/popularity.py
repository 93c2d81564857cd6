"""What any ranker must beat: the same most popular labels for every document."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.bundle import Bundle
from cascadexml.checked_json import whole
from cascadexml.data.sparse_files import read_npy
from cascadexml.errors import FormatError
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import BATCH_SIZE, FORMATS, Documents
from cascadexml.ranking import NO_LABEL, Ranking

FORMAT = FORMATS["popularity"]


@dataclass(frozen=True, eq=False)
class Popularity:
    """Labels by how often they are used. A label's score is the share of training documents that have it.

    Attributes:
        uses: (L,) int64, training documents that have each label.
        documents: how many training documents there are.
    """

    uses: npt.NDArray[np.int64]
    documents: int

    kind: ClassVar = "popularity"

    @property
    def L(self) -> int:  # noqa: N802
        """How many labels it ranks."""
        return self.uses.size

    @classmethod
    def fit(cls, Y: sparse.csr_matrix) -> Self:
        """Count the uses of labels.

        Args:
            Y: (N, L) labels of the training documents.
        """
        return cls(np.bincount(Y.indices, minlength=Y.shape[1]).astype(np.int64), Y.shape[0])

    def rank(self, documents: Documents, K: int, *, progress: Progress = silent) -> Ranking:
        """The K labels of most uses, for each of N documents that is not blank; labels without uses are left out."""
        best = np.argsort(-self.uses, kind="stable")[:K]
        best = best[self.uses[best] > 0]
        N = len(documents)
        filled = np.fromiter((bool(text.strip()) for text in documents.texts), dtype=bool, count=N)
        labels = np.full((N, K), NO_LABEL, dtype=np.int32)
        scores = np.full((N, K), -np.inf, dtype=np.float32)
        labels[filled, : best.size] = best
        scores[filled, : best.size] = self.uses[best] / max(self.documents, 1)
        progress("popularity", N, N, {})
        return Ranking(labels, scores)

    def save(self, folder: Path) -> None:
        """Write a bundle to `folder`."""
        with FORMAT.write(folder, {"L": self.L, "documents": self.documents}) as new:
            np.save(new / "uses.npy", self.uses, allow_pickle=False)

    @classmethod
    def load(cls, place: Path | Bundle, device: str = "auto", batch_size: int = BATCH_SIZE) -> Self:
        """Read what `save` wrote; `device` and `batch_size` change nothing.

        Raises:
            FormatError: it is truncated, tampered with, of another kind or version, or holds no counts.
        """
        found = FORMAT.read(place)
        try:
            uses: npt.NDArray[np.int64] = read_npy(found.path / "uses.npy")
            documents = whole(found.meta, "documents")
            if uses.dtype != np.int64 or uses.ndim != 1:
                raise ValueError(f"uses.npy is {uses.ndim}-dimensional {uses.dtype}, expected one dimension of int64")
            if uses.size and not 0 <= uses.min() <= uses.max() <= documents:
                raise ValueError(f"uses.npy holds {uses.min()} to {uses.max()}, expected 0 to {documents}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{found.path} cannot be read as label counts ({error}): make it again.") from None
        return cls(uses, documents)
