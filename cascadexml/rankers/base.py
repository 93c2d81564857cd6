"""The contract of rankers: documents in, each one's best labels out. All that ranks labels in this project keeps it.

A ranker is a folder on disk (a bundle of kind `cascadexml.ranker.<kind>`), is made by its class's `fit`, and gives a
`Ranking`. Its scores are its own; what turns them into probabilities is outside. Whoever evaluates, judges, monitors or
serves takes any ranker.

The cascade is fitted by `cascadexml.training.fit`, since training stands above the rankers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from cascadexml.bundle import Bundle, Format, kind_of
from cascadexml.errors import FormatError
from cascadexml.progress import Progress, silent
from cascadexml.ranking import Ranking

if TYPE_CHECKING:
    from cascadexml.data.tokens import Tokens

PREFIX = "cascadexml.ranker."
BATCH_SIZE = 64
FORMATS = {
    kind: Format(PREFIX + kind, version)
    for kind, version in (
        ("blend", 1),
        ("cascade", 1),
        ("cascade-onnx", 1),
        ("ensemble", 1),
        ("linear", 2),
        ("names", 1),
        ("neighbours", 3),
        ("popularity", 1),
    )
}
"""Kind → what its bundles on disk are."""


@dataclass(frozen=True, eq=False)
class Documents:
    """N documents to rank labels for.

    Attributes:
        texts: N texts.
        tokens: the same documents tokenised, where that has been done; None leaves it to the ranker.
    """

    texts: Sequence[str]
    tokens: "Tokens | None" = None

    def __post_init__(self) -> None:
        if isinstance(self.texts, str):
            raise TypeError("texts is one str, expected a sequence of them")
        for number, text in enumerate(self.texts):
            if not isinstance(text, str):
                raise TypeError(f"text {number} is {type(text).__name__}, expected str")
        if self.tokens is not None and len(self.tokens) != len(self.texts):
            raise ValueError(f"{len(self.texts)} texts and the tokens of {len(self.tokens)} are not the same documents")

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: npt.NDArray[np.integer]) -> "Documents":
        """The documents of some rows, in the order given."""
        tokens = None if self.tokens is None else self.tokens.take(rows)
        return Documents([self.texts[row] for row in rows], tokens)


class Ranker(Protocol):
    """What ranks labels; `kind` is its name in `FORMATS`."""

    kind: ClassVar[str]

    @property
    def L(self) -> int:  # noqa: N802
        """How many labels it ranks: rows [0, L) of the vocabulary."""
        ...

    def rank(self, documents: Documents, K: int, *, progress: Progress = silent) -> Ranking:
        """The best K labels of N documents, in their order: (N, K), the end of a row padded where there are fewer.

        A document's ranking does not depend on the others. A text without content gets no label.

        Args:
            documents: N documents.
            K: how many labels, from 1.
            progress: called with (what, documents done, documents in all, {}).

        Raises:
            PredictionError: out of memory, or the ranker's weights give no score.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write a bundle to `folder`, whole or not at all; nothing in it executes when it is loaded."""
        ...

    @classmethod
    def load(cls, place: Path | Bundle, device: str = "auto", batch_size: int = BATCH_SIZE) -> Self:
        """Read what `save` wrote.

        Args:
            place: where it lies, or the bundle that has been verified.
            device: where to compute, for rankers that use torch: as of `cascadexml.device.pick_device`.
            batch_size: documents ranked at once, for rankers whose memory depends on it.

        Raises:
            FormatError: it is truncated, tampered with, of another kind or version, or its parts do not fit.
            PredictionError: `device` is not there.
        """
        ...


@runtime_checkable
class VectorRanker(Ranker, Protocol):
    """A ranker that scores labels from one vector a document, and gives these vectors too."""

    def rank_with_vectors(
        self, documents: Documents, K: int, *, progress: Progress = silent
    ) -> tuple[Ranking, npt.NDArray[np.float32]]:
        """What `rank` gives, and the (N, d) vectors that the labels were scored from, zeros without content."""
        ...


def ranker_bundle(place: Path | Bundle) -> Bundle:
    """The bundle, verified, of the ranker of whatever kind that lies at `place`.

    Raises:
        FormatError: what lies there is no ranker of a known kind, is damaged, or of another version.
    """
    kind, where = (place.kind, place.path) if isinstance(place, Bundle) else (kind_of(place), place)
    known = FORMATS.get(kind.removeprefix(PREFIX)) if kind.startswith(PREFIX) else None
    if known is None:
        raise FormatError(f"{where} is a {kind!r}, expected a ranker ({', '.join(FORMATS)}): check the path.")
    return known.read(place)
