"""The ensemble: several networks with trees and seeds of their own as one ranker, which gives their scores' mean.

CascadeXML's best published rows are ensembles of three (Kharbanda et al., 2022, section 4). A label whose cluster one
network's shortlist left out may be found through another's tree, and what one seed alone brought about counts for less.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.bundle import Bundle, kind_of
from cascadexml.checked_json import whole
from cascadexml.data.tokens import tokenizer_fingerprint
from cascadexml.errors import FormatError
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import BATCH_SIZE, FORMATS, PREFIX, Documents, ranker_bundle
from cascadexml.rankers.cascade.onnx_ranker import OnnxRanker
from cascadexml.rankers.cascade.ranker import CascadeRanker, TokenRanker
from cascadexml.ranking import Ranking, joined, keys_of, scores_at

FORMAT = FORMATS["ensemble"]
DEPTH = 100
"""Labels that each member ranks, whatever is asked of the ensemble."""
SINGLE: dict[str, type[TokenRanker]] = {CascadeRanker.kind: CascadeRanker, OnnxRanker.kind: OnnxRanker}
"""Kind → class of what may be a member: one network with its tokenizer."""
MOST_MEMBERS = 1000
_DOCUMENTS_A_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Two networks or more over the same labels, behind the same tokenizer.

    What it holds of a document is sparse: each member's first `DEPTH` labels. A label that a member does not name
    counts there with the score of the member's last place, and with 0 where the member names fewer than `DEPTH`.

    Attributes:
        members: the networks with their tokenizers, on the device that is to do the work.

    Raises:
        ValueError: there are fewer than two, or they differ in labels, tokenizer or the length that a text is cut to.
    """

    members: Sequence[TokenRanker]

    kind: ClassVar = "ensemble"

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ValueError(f"an ensemble of {len(self.members)}, expected two members or more")
        for name, values in (
            ("labels", {member.L for member in self.members}),
            ("tokens a text", {member.max_length for member in self.members}),
            ("tokenizers", {tokenizer_fingerprint(member.tokenizer) for member in self.members}),
        ):
            if len(values) > 1:
                raise ValueError(f"its members differ in their {name}")

    @property
    def L(self) -> int:  # noqa: N802
        """How many labels it ranks."""
        return self.first.L

    @property
    def first(self) -> TokenRanker:
        """The member whose vectors it gives."""
        return self.members[0]

    def rank(self, documents: Documents, K: int, *, progress: Progress = silent) -> Ranking:
        """The best K labels of N documents: (N, K), with the mean of the members' scores, in (0, 1).

        Raises:
            PredictionError: out of memory, or a text with content gets no label.
        """
        return self.rank_with_vectors(documents, K, progress=progress)[0]

    def rank_with_vectors(
        self, documents: Documents, K: int, *, progress: Progress = silent
    ) -> tuple[Ranking, npt.NDArray[np.float32]]:
        """What `rank` gives, and the (N, d) vectors that the first member's label classifiers read."""
        shared = Documents(documents.texts, self.first.tokens_of(documents))
        R = len(self.members)
        ranking, vectors = self.first.rank_with_vectors(shared, DEPTH, progress=_part(progress, 0, R))
        others = [
            member.rank(shared, DEPTH, progress=_part(progress, i, R))
            for i, member in enumerate(self.members[1:], start=1)
        ]
        return mean_ranking([ranking, *others], K, self.L), vectors

    def save(self, folder: Path) -> None:
        """Write a bundle to `folder`: the members' own bundles."""
        with FORMAT.write(folder, _meta(self.L, len(self.members))) as new:
            for i, member in enumerate(self.members):
                member.save(new / member_name(i))

    @classmethod
    def load(cls, place: Path | Bundle, device: str = "auto", batch_size: int = BATCH_SIZE) -> Self:
        """Read what `save` or `join` wrote.

        Args:
            place: where it lies, or the bundle that has been verified.
            device: as of `CascadeRanker.load`.
            batch_size: documents that a member scores at once.

        Raises:
            FormatError: it is truncated, tampered with, of another kind or version, or its parts do not fit.
            PredictionError: `device` is not there.
        """
        found = FORMAT.read(place)
        try:
            parts = [single_part(found, member_name(i)) for i in range(members_of(found))]
            return cls([_load_single(part, device, batch_size) for part in parts])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{found.path} cannot be read as an ensemble ({error}): make it again.") from None


Cascade = TokenRanker | Ensemble
"""What may stand where the network's ranking and vectors are wanted."""


def load_cascade(place: Path | Bundle, device: str = "auto", batch_size: int = BATCH_SIZE) -> Cascade:
    """Load the network, exported or not, or the ensemble of networks, that lies at `place`.

    Raises:
        ConfigError: it was exported, and a package that it needs is not installed.
        FormatError: as of `CascadeRanker.load`, or what lies there is a ranker of another kind.
        PredictionError: `device` is not there.
    """
    found = ranker_bundle(place)
    kind = found.kind.removeprefix(PREFIX)
    if kind == Ensemble.kind:
        return Ensemble.load(found, device, batch_size)
    if kind not in SINGLE:
        raise FormatError(f"{found.path} is a {found.kind!r}, expected a network or an ensemble: check the path.")
    return _load_single(found, device, batch_size)


def cascade_part(holder: Bundle, name: str) -> Bundle:
    """The bundle of the network, or of the ensemble, in the folder `name` of a bundle.

    Raises:
        FormatError: as of `Bundle.part`.
    """
    if kind_of(holder.path / name) == FORMAT.kind:
        return holder.part(name, FORMAT)
    return single_part(holder, name)


def single_part(holder: Bundle, name: str) -> Bundle:
    """The bundle of the network, exported or not, in the folder `name` of a bundle.

    Raises:
        FormatError: as of `Bundle.part`.
    """
    kind = kind_of(holder.path / name).removeprefix(PREFIX)
    return holder.part(name, FORMATS[kind if kind in SINGLE else CascadeRanker.kind])


def members_of(found: Bundle) -> int:
    """How many members an ensemble's bundle says that it has.

    Raises:
        FormatError: it does not.
    """
    try:
        return whole(found.meta, "members", 2, MOST_MEMBERS)
    except ValueError as error:
        raise FormatError(f"{found.path} cannot be read as an ensemble ({error}): make it again.") from None


def _load_single(found: Bundle, device: str, batch_size: int) -> TokenRanker:
    return SINGLE[found.kind.removeprefix(PREFIX)].load(found, device, batch_size)


def join(members: Sequence[Path], folder: Path) -> None:
    """Write to `folder` the bundle of an ensemble whose members lie elsewhere, byte for byte and without loading one.

    Raises:
        FormatError: a member is no cascade, truncated, tampered with, or of another version.
    """
    bundles = [FORMATS["cascade"].read(member) for member in members]
    with FORMAT.write(folder, _meta(bundles[0].meta["L"], len(bundles))) as new:
        for i, bundle in enumerate(bundles):
            shutil.copytree(bundle.path, new / member_name(i), copy_function=shutil.copyfile)


def member_name(i: int) -> str:
    """The folder of member i, from 0, and the head of the names of its curves."""
    return f"member_{i}"


def mean_ranking(rankings: Sequence[Ranking], K: int, L: int) -> Ranking:
    """The best K of the labels that any of several rankings names, by the mean of their scores.

    Args:
        rankings: of the same N documents, (N, any K) with scores of 0 or more.
        K: how many labels.
        L: labels.
    """
    N = len(rankings[0].labels)
    parts = []
    for start in range(0, max(N, 1), _DOCUMENTS_A_CHUNK):
        rows = slice(start, min(start + _DOCUMENTS_A_CHUNK, N))
        some = [Ranking(ranking.labels[rows], ranking.scores[rows]) for ranking in rankings]
        n = len(some[0].labels)
        keys = np.unique(np.concatenate([keys_of(ranking.labels, L) for ranking in some]))
        means = np.mean([scores_at(ranking, keys, L) for ranking in some], axis=0)
        ends = np.searchsorted(keys, np.arange(n + 1) * L)
        parts.append(Ranking.from_scores(sparse.csr_matrix((means, keys % L, ends), shape=(n, L)), K))
    return joined(parts)


def _meta(L: int, members: int) -> dict[str, int]:
    return {"L": L, "members": members}


def _part(progress: Progress, i: int, R: int) -> Progress:
    """Progress over all members from that of member i of R."""
    return lambda what, done, total, figures: progress(what, (i * total + done) // R, total, figures)
