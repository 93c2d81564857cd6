"""The blend: one answer from the network, linear classifiers over words, like documents' labels, and label names.

Each source ranks a document, and a `Mixture` fitted on dev makes one ranking of theirs, whose scores are probabilities.
The network's part of CascadeXML's best published rows is the same: a sparse ranker beside the transformer (Kharbanda et
al., 2022, section 4). A blend is one bundle that holds its sources' bundles.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from cascadexml.bundle import Bundle
from cascadexml.checked_json import list_of, number, object_of, read_json, read_strings, strings_of, whole
from cascadexml.config import BlendSettings
from cascadexml.data.sparse_files import read_npy
from cascadexml.device import multiplies_bf16
from cascadexml.errors import FormatError
from cascadexml.metrics import document_metrics
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import BATCH_SIZE, FORMATS, Documents, Ranker
from cascadexml.rankers.brevity import Brevity, fit_brevity, windows_of
from cascadexml.rankers.ensemble import Cascade, Ensemble, cascade_part, load_cascade
from cascadexml.rankers.explaining import Explanation, explain_words, nearest_records
from cascadexml.rankers.linear import LinearRanker
from cascadexml.rankers.mixture import (
    DECISIVE,
    Candidates,
    Evidence,
    Mixture,
    cross_fitted,
    fit_mixture,
    logit,
    plain,
    root,
)
from cascadexml.rankers.names import NamesRanker
from cascadexml.rankers.neighbours import NearestNeighbours
from cascadexml.rankers.vectors import FORMAT as VECTORS
from cascadexml.rankers.vectors import VectorIndex
from cascadexml.ranking import Ranking, joined

FORMAT = FORMATS["blend"]
DEPTH = 100
"""Labels that each source ranks, whatever is asked of the blend."""
NAMES_DEPTH = 300
"""The same of label names: most candidates stand further down, and differ there."""
EVIDENCE: dict[str, Evidence] = {
    "cascade": logit,
    "linear": logit,
    "neighbours": root,
    "vectors": root,
    "names": plain,
}
"""Source → what its scores say, the one whose every label is a candidate first."""
MIXED = "mixed"
"""What figures on dev call the mixture, cross-fitted, beside its sources."""
_SELECT = "nDCG@5"
_KS = (1, 5, 20)
_DOCUMENTS_A_CHUNK = 4096
HEAVIEST = 1e100
"""Weight that a file may name: beyond this a sum of evidence may be no number."""
Figures = Mapping[str, Mapping[str, float]]
"""Ranker → metric → its mean over documents."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sources:
    """What ranks beside the network; None is left out.

    Attributes:
        cascade: the network with its tokenizer, or an ensemble of networks.
        linear: linear classifiers over words.
        neighbours: the training documents, found by their words.
        vectors: the training documents, found by the network's vectors.
        names: the labels' names.
    """

    cascade: Cascade
    linear: LinearRanker | None = None
    neighbours: NearestNeighbours | None = None
    vectors: VectorIndex | None = None
    names: NamesRanker | None = None

    @classmethod
    def of(
        cls,
        cascade: Cascade,
        linear: LinearRanker,
        documents: Documents,
        Y: sparse.csr_matrix,
        names: Sequence[str | None],
        settings: BlendSettings,
        progress: Progress = silent,
    ) -> Self:
        """The sources that the settings name, the training documents indexed where they are asked for.

        Args:
            cascade: the trained network, or an ensemble.
            linear: the linear classifiers, which are left out where the settings do not name them.
            documents: N training documents.
            Y: (N, L) their labels.
            names: of the L labels; where none has a name, the source of that name is left out.
            settings: which sources, how many neighbours vote, and what counts as a text's opening.
            progress: told of the network's pass over the documents.

        Raises:
            ConfigError: scikit-learn is not installed.
            DataError: no word occurs in two of the documents.
            PredictionError: out of memory.
        """
        chosen = settings.sources
        neighbours = vectors = None
        if "neighbours" in chosen:
            neighbours = NearestNeighbours.fit(documents, Y, settings.neighbours, opening=settings.opening)
        if "vectors" in chosen:
            reader = cascade.first if isinstance(cascade, Ensemble) else cascade
            device = reader.network.device
            # Neighbours do not mind the third digit, and this pass is the longest part of a blend.
            with torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bf16(device)):
                _, seen = reader.rank_with_vectors(documents, 1, progress=progress)
            vectors = VectorIndex.of(seen, Y, settings.neighbours)
        named = "names" in chosen and any(names)
        if "names" in chosen and not named:
            log.info("no label has a name: label names are left out of the blend")
        return cls(
            cascade,
            linear if "linear" in chosen else None,
            neighbours,
            vectors,
            NamesRanker.fit(names, settings.opening) if named else None,
        )

    @property
    def listed(self) -> list[str]:
        """Those that there are, the cascade first."""
        return [name for name in EVIDENCE if getattr(self, name) is not None]

    def rank(
        self, documents: Documents, progress: Progress = silent
    ) -> tuple[dict[str, Ranking], npt.NDArray[np.float32]]:
        """The first `DEPTH` labels of N documents by each source, and the network's vectors (N, d), in one pass."""
        cascade, vectors = self.cascade.rank_with_vectors(documents, DEPTH, progress=progress)
        rankings = {"cascade": cascade}
        rankings |= self._rank_by_terms(documents)
        if self.vectors is not None:
            rankings["vectors"] = self.vectors.rank(vectors, DEPTH)
        if self.names is not None:
            rankings["names"] = self.names.rank(documents, NAMES_DEPTH)
        return rankings, vectors

    def _rank_by_terms(self, documents: Documents) -> dict[str, Ranking]:
        """What the linear classifiers and the neighbours give; a text is taken apart once where both read alike."""
        if self._alike is not None:
            linear, neighbours = self._alike
            X = linear.tfidf.transform(documents.texts)
            return {"linear": linear.rank_rows(X, DEPTH), "neighbours": neighbours.rank_rows(X, DEPTH)}
        others: list[tuple[str, Ranker | None]] = [("linear", self.linear), ("neighbours", self.neighbours)]
        return {name: ranker.rank(documents, DEPTH) for name, ranker in others if ranker is not None}

    @cached_property
    def _alike(self) -> tuple[LinearRanker, NearestNeighbours] | None:
        """The linear classifiers and the neighbours where they have one TF-IDF."""
        linear, neighbours = self.linear, self.neighbours
        if linear is None or neighbours is None or not linear.tfidf.same_as(neighbours.tfidf):
            return None
        return linear, neighbours


@dataclass(frozen=True, eq=False)
class Blend:
    """Sources and how they are mixed.

    Attributes:
        sources: what ranks.
        mixture: weights of `sources.listed`.
        uses: (L,) int64, documents of train that have each label.
        ids: the N training documents that the indexes hold, row by row: what an explanation calls them.
        brevity: how much less it is sure of a short text.
    """

    sources: Sources
    mixture: Mixture
    uses: npt.NDArray[np.int64]
    ids: Sequence[str] = ()
    brevity: Brevity = Brevity()

    kind: ClassVar = "blend"

    @classmethod
    def fit(
        cls,
        sources: Sources,
        documents: Documents,
        Y: sparse.csr_matrix,
        uses: npt.NDArray[np.int64],
        ids: Sequence[str],
        settings: BlendSettings,
        *,
        seed: int = 0,
        progress: Progress = silent,
        record: Callable[[Figures], None] = lambda figures: None,
    ) -> Self:
        """Weigh the sources on documents that none of them has learnt from.

        On dev, cross-fitted, it is never worse than its best source: where the mixture of all is, that source answers
        alone. Without a document to weigh them on, the network does.

        Args:
            sources: what ranks.
            documents: N documents of dev.
            Y: (N, at least L) their labels.
            uses: (L,) documents of train that have each label.
            ids: the training documents that the indexes hold.
            settings: folds of the cross-fitting.
            seed: of the folds.
            progress: told of the network's pass over dev.
            record: told what each source reaches on dev, and `MIXED` what they reach together, cross-fitted: P, R and
                nDCG as fractions. Settings may be chosen by these without a look at test.

        Raises:
            PredictionError: out of memory.
        """
        names, L = sources.listed, uses.size
        if not len(documents):
            log.warning("No document to weigh the sources on: the network answers alone.")
            return cls(sources, _alone("cascade", names), uses, ids)
        rankings, _ = sources.rank(documents, progress)
        found = candidates(rankings, L)
        right = np.asarray(Y[:, :L].tocsr()[found.documents, found.labels]).ravel() > 0
        honest = cross_fitted(found, right, uses, settings.folds, seed)
        figures = {name: _means(ranking, Y) for name, ranking in rankings.items()}
        together = _means(found.ranked(honest, max(_KS), L), Y)
        record({MIXED: together, **figures})
        alone, mixed = {name: each[_SELECT] for name, each in figures.items()}, together[_SELECT]
        log.info("dev %s of each source: %s", _SELECT, ", ".join(f"{n} {v:.4f}" for n, v in alone.items()))
        best = max(alone, key=alone.__getitem__)
        if mixed <= alone[best]:
            log.warning("Mixed, they reach %.4f on dev, no more than %s alone, which answers.", mixed, best)
            return cls(sources, _alone(best, names), uses, ids)
        log.info("mixed, cross-fitted in %d folds: %.4f", settings.folds, mixed)
        blend = cls(sources, fit_mixture(found, right, uses), uses, ids)
        return dataclasses.replace(blend, brevity=_brevity_of(blend, documents.texts, Y, seed, progress))

    @property
    def L(self) -> int:  # noqa: N802
        """How many labels it ranks."""
        return self.uses.size

    def rank(self, documents: Documents, K: int, *, progress: Progress = silent) -> Ranking:
        """The best K labels of N documents: (N, K), with the probabilities that they are right for scores.

        Raises:
            PredictionError: out of memory, or a text with content gets no label.
        """
        return self.rank_with_vectors(documents, K, progress=progress)[0]

    def rank_with_vectors(
        self, documents: Documents, K: int, *, progress: Progress = silent
    ) -> tuple[Ranking, npt.NDArray[np.float32]]:
        """What `rank` gives, and the network's vectors (N, d), in one pass."""
        ranking, vectors, _ = self.rank_with_sources(documents, K, progress=progress)
        return ranking, vectors

    def rank_with_sources(
        self, documents: Documents, K: int, *, progress: Progress = silent
    ) -> tuple[Ranking, npt.NDArray[np.float32], dict[str, Ranking]]:
        """What `rank_with_vectors` gives, and each source's ranking (N, its depth) with its own scores."""
        N = len(documents)
        parts = []
        for start in range(0, max(N, 1), _DOCUMENTS_A_CHUNK):
            chunk = documents.take(np.arange(start, min(start + _DOCUMENTS_A_CHUNK, N)))
            rankings, vectors = self.sources.rank(chunk, _shifted(progress, start, N))
            parts.append((self.mixed(chunk.texts, rankings, K), vectors, rankings))
        return (
            joined([ranking for ranking, _, _ in parts]),
            np.concatenate([vectors for _, vectors, _ in parts]),
            {name: joined([rankings[name] for _, _, rankings in parts]) for name in self.sources.listed},
        )

    def rank_to_explain(
        self, documents: Documents, K: int, *, progress: Progress = silent
    ) -> tuple[Ranking, "BlendExplanations"]:
        """What `rank` gives, and what explains it, which holds each source's ranking of the N documents."""
        ranking, vectors, rankings = self.rank_with_sources(documents, K, progress=progress)
        return ranking, BlendExplanations(self, documents, vectors, rankings)

    @cached_property
    def _carriers(self) -> sparse.csc_matrix | None:
        """(N, L) the training documents of each label; None where no index holds any."""
        index = self.sources.neighbours or self.sources.vectors
        return None if index is None else sparse.csc_matrix(index.Y)

    def carriers(self, label: int) -> npt.NDArray[np.int32]:
        """Rows of the training documents that carry a label; none where no index holds any."""
        Y = self._carriers
        return np.zeros(0, dtype=np.int32) if Y is None else Y.indices[Y.indptr[label] : Y.indptr[label + 1]]

    def mixed(self, texts: Sequence[str], rankings: Mapping[str, Ranking], K: int) -> Ranking:
        """The best K labels of N texts, from each source's ranking of them."""
        found = candidates(rankings, self.L)
        probabilities, u = self.mixture.probabilities(found, self.uses), self.brevity.shortness(texts)
        return found.ranked(self.brevity.believed(probabilities, u[found.documents]), K, self.L)

    def save(self, folder: Path) -> None:
        """Write a bundle to `folder`: the sources' own bundles, the weights, the counts and the ids."""
        sources = self.sources
        with FORMAT.write(folder, {"L": self.L, "sources": sources.listed}) as new:
            for name in sources.listed:
                getattr(sources, name).save(new / name)
            parts = {**dataclasses.asdict(self.mixture), "brevity": dataclasses.asdict(self.brevity)}
            _write_json(new / "mixture.json", parts)
            _write_json(new / "ids.json", list(self.ids))
            np.save(new / "uses.npy", self.uses, allow_pickle=False)

    @classmethod
    def load(cls, place: Path | Bundle, device: str = "auto", batch_size: int = BATCH_SIZE) -> Self:
        """Read what `save` wrote; `device` and `batch_size` are the network's.

        Raises:
            FormatError: it is truncated, tampered with, of another kind or version, or its parts do not fit.
            PredictionError: `device` is not there.
        """
        found = FORMAT.read(place)
        try:
            L, names = whole(found.meta, "L"), strings_of(found.meta, "sources")
            weights = object_of(read_json(found.path / "mixture.json"))
            # A blend from before short texts were told apart says nothing of them.
            mixture, brevity = _read_mixture(weights), Brevity.from_json(weights.get("brevity", {}))
            ids = read_strings(found.path / "ids.json")
            uses: npt.NDArray[np.int64] = read_npy(found.path / "uses.npy")
            if uses.dtype != np.int64 or uses.shape != (L,) or (uses < 0).any():
                raise ValueError(f"uses.npy is {uses.dtype} of {uses.shape}, expected {L} counts")
            if names != [name for name in EVIDENCE if name in names] or names[:1] != ["cascade"]:
                raise ValueError(f"its sources are {names}, expected cascade and some of {', '.join(EVIDENCE)}")
            if len(mixture.rare) != len(names):
                raise ValueError(f"mixture.json weighs {len(mixture.rare)} sources, there are {len(names)}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{found.path} cannot be read as a blend of rankers ({error}): make it again.") from None
        sources = Sources(
            load_cascade(cascade_part(found, "cascade"), device, batch_size),
            LinearRanker.load(found.part("linear", FORMATS["linear"])) if "linear" in names else None,
            NearestNeighbours.load(found.part("neighbours", FORMATS["neighbours"])) if "neighbours" in names else None,
            VectorIndex.load(found.part("vectors", VECTORS)) if "vectors" in names else None,
            NamesRanker.load(found.part("names", FORMATS["names"])) if "names" in names else None,
        )
        for name, ranker in (("cascade", sources.cascade), ("linear", sources.linear), ("names", sources.names)):
            if ranker is not None and ranker.L != L:
                raise FormatError(f"{found.path}: {name} ranks {ranker.L} labels, the blend {L}: make it again.")
        for name, index in (("neighbours", sources.neighbours), ("vectors", sources.vectors)):
            if index is not None and index.Y.shape != (len(ids), L):
                raise FormatError(
                    f"{found.path}: {name} holds documents and labels of {index.Y.shape}, ids.json and the blend have "
                    f"{(len(ids), L)}: make it again."
                )
        return cls(sources, mixture, uses, ids, brevity)


@dataclass(frozen=True, eq=False)
class BlendExplanations:
    """Why labels of N documents have their scores, worked out for one document at a time.

    Attributes:
        blend: what ranked.
        documents: the N documents.
        vectors: (N, d) the network's.
        rankings: of each source, (N, its depth).
    """

    blend: Blend
    documents: Documents
    vectors: npt.NDArray[np.float32]
    rankings: Mapping[str, Ranking]

    def of(self, document: int, labels: Sequence[int], records: int, terms: int) -> list[Explanation]:
        """Why some labels of a document have their scores: `Explanations.of`."""
        if not labels:
            return []
        blend, sources, text = self.blend, self.blend.sources, self.documents.texts[document]
        names = [*sources.listed, "frequency"]
        shares = [dict(zip(names, row, strict=True)) for row in self._shares(document, labels).tolist()]
        words = explain_words(sources.linear, text, labels, terms) if sources.linear else [None] * len(labels)
        cosines = {}
        if sources.neighbours is not None and records:
            cosines["neighbours"] = sources.neighbours.cosines(text)
        if sources.vectors is not None and records:
            cosines["vectors"] = sources.vectors.cosines(self.vectors[document])
        near = [nearest_records(cosines, blend.carriers(label), blend.ids, records) for label in labels]
        return [Explanation(*parts) for parts in zip(shares, words, near, strict=True)]

    def _shares(self, document: int, labels: Sequence[int]) -> npt.NDArray[np.float64]:
        """(len(labels), S + 1): as of `Mixture.shares`, and what a short text leaves of them."""
        own = slice(document, document + 1)
        told = {name: Ranking(ranking.labels[own], ranking.scores[own]) for name, ranking in self.rankings.items()}
        found = candidates(told, self.blend.L)
        if not np.isin(labels, found.labels).all():
            raise ValueError(f"the ranking of document {document} does not name all of the labels {list(labels)}")
        at = np.searchsorted(found.labels, labels)
        shares = self.blend.mixture.shares(found, self.blend.uses)[at]
        u = self.blend.brevity.shortness([self.documents.texts[document]])
        return self.blend.brevity.shares(shares, float(u[0]))


def candidates(rankings: Mapping[str, Ranking], L: int) -> Candidates:
    """The candidates of N documents from each source's ranking of them."""
    names = [name for name in EVIDENCE if name in rankings]
    return Candidates.of([rankings[name] for name in names], [EVIDENCE[name] for name in names], L)


def _brevity_of(blend: Blend, texts: Sequence[str], Y: sparse.csr_matrix, seed: int, progress: Progress) -> Brevity:
    """How much less a blend is to be sure of short texts, by windows of N documents with labels (N, at least L)."""
    ordinary, windows, rows = windows_of(texts, seed)
    if not windows:
        return Brevity()
    found = candidates(blend.sources.rank(Documents(windows), progress)[0], blend.L)
    probabilities = blend.mixture.probabilities(found, blend.uses)
    first = found.first(probabilities, DECISIVE)
    right = np.asarray(Y[:, : blend.L].tocsr()[rows[found.documents[first]], found.labels[first]]).ravel() > 0
    u = Brevity(ordinary).shortness(windows)[found.documents[first]]
    return fit_brevity(probabilities[first], right, u, ordinary)


def _alone(source: str, names: Sequence[str]) -> Mixture:
    """The order that one source gives."""
    weights = tuple(float(name == source) for name in names)
    return Mixture(weights, weights)


def _means(ranking: Ranking, Y: sparse.csr_matrix) -> dict[str, float]:
    found = document_metrics(ranking, Y, _KS)
    return {f"{of}@{k}": float(found[f"{of}@{k}"].mean()) for of in ("P", "R", "nDCG") for k in _KS}


def _shifted(progress: Progress, start: int, N: int) -> Progress:
    """Progress over N documents from that over those from `start` on."""
    return lambda what, done, total, figures: progress(what, start + done, N, figures)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_mixture(content: Mapping[str, object]) -> Mixture:
    """A mixture of what `dataclasses.asdict` made of one; raises ValueError where it is none."""
    rare, common = (
        tuple(number({name: weight}, name, 0, HEAVIEST) for weight in list_of(content, name))
        for name in ("rare", "common")
    )
    if len(rare) != len(common):
        raise ValueError("mixture.json has not two weights a source")
    return Mixture(rare, common, *(number(content, key, -HEAVIEST, HEAVIEST) for key in ("rare_bias", "common_bias")))
