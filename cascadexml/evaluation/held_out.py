"""What a ranker says of the held-out records: computed once, read by whatever is measured on them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascadexml.bundle import Bundle, Format
from cascadexml.errors import FormatError
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import Documents, Ranker, VectorRanker
from cascadexml.ranking import Ranking

FORMAT = Format("cascadexml.held_out", 2)
HELD_OUT = ("dev", "test")
"""The splits that no model learns from."""


@dataclass(frozen=True, eq=False)
class Seen:
    """N documents as a ranker sees them.

    Attributes:
        ranking: (N, K) with the ranker's own scores.
        vectors: (N, d) that the labels were scored from; None from a ranker without vectors.
    """

    ranking: Ranking
    vectors: npt.NDArray[np.floating] | None

    def take(self, rows: npt.NDArray[np.integer]) -> "Seen":
        """Some of the documents."""
        ranking = Ranking(self.ranking.labels[rows], self.ranking.scores[rows])
        return Seen(ranking, None if self.vectors is None else self.vectors[rows])


def see(ranker: Ranker, documents: Documents, K: int, progress: Progress = silent) -> Seen:
    """Rank N documents, and keep the vectors where the ranker has any.

    Raises:
        PredictionError: out of memory.
    """
    if isinstance(ranker, VectorRanker):
        return Seen(*ranker.rank_with_vectors(documents, K, progress=progress))
    return Seen(ranker.rank(documents, K, progress=progress), None)


@dataclass(frozen=True)
class Provenance:
    """Whose rankings of which records: whoever has the same three would compute the same.

    Attributes:
        ranker: fingerprint of the ranker's bundle.
        corpus: fingerprint of the corpus.
        top_k: labels asked for.
    """

    ranker: str
    corpus: str
    top_k: int


def save_held_out(seen: Mapping[str, Seen], provenance: Provenance, folder: Path) -> None:
    """Write a bundle: of each split the ranking and, in 16 bits, the vectors."""
    with FORMAT.write(folder, {"splits": list(seen), **asdict(provenance)}) as new:
        for name, each in seen.items():
            each.ranking.save(new / f"{name}.npz")
            if each.vectors is not None:
                np.save(new / f"{name}_vectors.npy", each.vectors.astype(np.float16), allow_pickle=False)


def load_held_out(place: Path | Bundle) -> dict[str, Seen]:
    """Read what `save_held_out` wrote: split → what was seen.

    Raises:
        FormatError: it is missing, truncated, changed or of another version, or its parts do not fit.
    """
    bundle, found = FORMAT.read(place), {}
    for name in bundle.meta["splits"]:
        ranking, kept = Ranking.load(bundle.path / f"{name}.npz"), bundle.path / f"{name}_vectors.npy"
        vectors = np.load(kept, allow_pickle=False) if kept.exists() else None
        if vectors is not None and (vectors.ndim != 2 or len(vectors) != len(ranking.labels)):
            raise FormatError(f"{kept} holds {vectors.shape} for {len(ranking.labels)} documents: make it again.")
        found[name] = Seen(ranking, vectors)
    return found


def ranked_before(place: Path | Bundle, provenance: Provenance, split: str) -> Ranking | None:
    """The ranking of a split that lies at `place`, if it is of this provenance; None if it is another's.

    Raises:
        FormatError: as of `load_held_out`.
    """
    bundle = FORMAT.read(place)
    kept = {name: bundle.meta.get(name) for name in asdict(provenance)}
    if kept != asdict(provenance) or split not in bundle.meta["splits"]:
        return None
    return Ranking.load(bundle.path / f"{split}.npz")
