"""Two models before the gate: whether they can be compared at all, and the judgement of both on one corpus.

Which models these are is open: whatever tells its labels and gives a ranker is a candidate, an opened artifact above
all. To import this costs no torch.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cascadexml.bundle import beside
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import ConfigError, DataError, FormatError
from cascadexml.evaluation.held_out import Provenance, ranked_before
from cascadexml.evaluation.judge import judge, slices_of, translate
from cascadexml.evaluation.judgement import Judgement, ModelIdentity, render
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import Documents, Ranker
from cascadexml.ranking import Ranking

if TYPE_CHECKING:
    from cascadexml.config import Settings
    from cascadexml.data.corpus import Corpus

LEAST_SHARED = 0.01
"""Share of the smaller label set that two models of one source have in common at least. Two lots of 50 records each,
out of different years of one catalogue, share 3 % and more (docs/judgement.md)."""


class Candidate(Protocol):
    """A model that can stand before the gate, such as an `Artifact`."""

    @property
    def path(self) -> Path:
        """Its folder."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its manifest's bytes."""
        ...

    @property
    def meta(self) -> Mapping[str, Any]:
        """Its "name", its "labels" and, where that is known, its "data_fingerprint"."""
        ...

    def vocabulary(self) -> Vocabulary:
        """What its rows are called."""
        ...

    @property
    def ranker_fingerprint(self) -> str:
        """Fingerprint of the bundle of what ranks."""
        ...

    def ranker(self, device: str = "auto") -> Ranker:
        """What ranks."""
        ...


def identity(candidate: Candidate) -> ModelIdentity:
    """Which model it is."""
    meta = candidate.meta
    return ModelIdentity(meta["name"], candidate.fingerprint, meta.get("data_fingerprint"), meta["labels"])


def check_comparable(champion: Candidate, challenger: Candidate) -> None:
    """Refuse two models of different sources: one that knows next to none of the other's labels judges nothing.

    They can be compared when they were trained on the same data, or when `LEAST_SHARED` of the smaller set of ranked
    labels stands in the other too. A label is the same with the same id and, where both models have a name for it, the
    same name but for case and white space: ids such as "1" and "2" coincide by accident.

    Raises:
        ConfigError: they cannot; `package.name` gives one model the name of another.
    """
    one, other = identity(champion), identity(challenger)
    if one.data_fingerprint is not None and one.data_fingerprint == other.data_fingerprint:
        return
    first, second = champion.vocabulary(), challenger.vocabulary()
    shared, smaller = _shared(first, second), min(first.L, second.L)
    if shared < LEAST_SHARED * smaller:
        raise ConfigError(
            f"The challenger {other.name!r} ({second.L:,} labels) and the champion {one.name!r} ({first.L:,} labels, "
            f"fingerprint {one.fingerprint[:12]}) were trained on different data and have {shared:,} labels in common: "
            "one cannot take the place of the other; give the challenger's model another name, package.name in "
            "params.yaml."
        )


def _shared(first: Vocabulary, second: Vocabulary) -> int:
    """How many labels both rank."""
    found = 0
    for label, name in zip(first.ids[: first.L], first.names, strict=False):
        row = second.row(label)
        if 0 <= row < second.L:
            other = second.names[row]
            found += not name or not other or _plain(name) == _plain(other)
    return found


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def judge_candidates(
    champion: Candidate | None,
    challenger: Candidate,
    corpus: "Corpus",
    settings: "Settings",
    progress: Progress = silent,
    held_out: Path | None = None,
) -> Judgement:
    """Let both rank the corpus's test split, and decide by `judge`. One model is in memory at a time.

    Args:
        champion: None where there is none yet.
        challenger: what may take its place.
        corpus: whose test records are in neither model's training data.
        settings: the sections `judge`, `evaluate`, `seed`, and `train.device`.
        progress: of the ranking.
        held_out: what the stage evaluate left; a model whose ranking of these records it holds does not rank again.

    Returns:
        The judgement, with its `models` and with notes on labels that a model lacks and on other data.

    Raises:
        DataError: the corpus has no test document.
        ConfigError: the two cannot be compared, see `check_comparable`; a slice or metric is none.
        FormatError: a model or `held_out` is damaged.
        PredictionError: out of memory, or the device asked for is not there.
    """
    test = corpus.splits.get("test")
    if not test:
        raise DataError("The corpus has no test document: give the source a test split or raise download.split.test.")
    if champion is not None:
        check_comparable(champion, challenger)
    candidates = {"challenger": challenger} | ({} if champion is None else {"champion": champion})
    slices = slices_of(test.metadata, settings.judge.slices)
    rankings = {role: _rank(each, corpus, settings, progress, held_out) for role, each in candidates.items()}
    judgement = judge(
        rankings.get("champion"),
        rankings["challenger"],
        test.Y,
        corpus.splits["train"].Y,
        slices,
        settings.judge,
        settings.evaluate,
        settings.seed,
    )
    told = [note for role, each in candidates.items() for note in _notes(role, each, corpus)]
    models = {role: identity(each) for role, each in candidates.items()}
    return replace(judgement, notes=(*judgement.notes, *told), models=models)


def _rank(
    candidate: Candidate, corpus: "Corpus", settings: "Settings", progress: Progress, held_out: Path | None
) -> Ranking:
    """The model's ranking of the test split, in rows of the corpus's vocabulary."""
    K, vocabulary = settings.evaluate.top_k, candidate.vocabulary()
    provenance = Provenance(candidate.ranker_fingerprint, corpus.fingerprint, K)
    if held_out is not None and (known := ranked_before(held_out, provenance, "test")) is not None:
        return translate(known, vocabulary, corpus.vocabulary)
    ranker = candidate.ranker(settings.train.device)
    if ranker.L != vocabulary.L:
        raise FormatError(
            f"{candidate.path}: the model ranks {ranker.L} labels, the vocabulary {vocabulary.L}: pack it again."
        )
    found = ranker.rank(Documents(corpus.splits["test"].texts), K, progress=progress)
    return translate(found, vocabulary, corpus.vocabulary)


def _notes(role: str, candidate: Candidate, corpus: "Corpus") -> Iterator[str]:
    """What a reader must know of this model: labels that it lacks, and other data than the corpus's."""
    vocabulary = candidate.vocabulary()
    known = set(vocabulary.ids[: vocabulary.L])
    ranked = corpus.vocabulary.ids[: corpus.vocabulary.L]
    if lacking := sum(label not in known for label in ranked):
        yield f"The {role} does not know {lacking:,} of the {len(ranked):,} labels of train: they count as missed."
    if candidate.meta.get("data_fingerprint") != corpus.fingerprint:
        yield (
            f"The {role} was trained on other data than this corpus: the figures are fair only if no test record was "
            "in its training data, as holding records out by a hash of their id ensures."
        )


def save(judgement: Judgement, folder: Path) -> None:
    """Write judgement.json and judgement.md."""
    with beside(folder / "judgement.md") as new:
        new.write_text(render(judgement), encoding="utf-8")
    with beside(folder / "judgement.json") as new:
        new.write_text(json.dumps(judgement.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
