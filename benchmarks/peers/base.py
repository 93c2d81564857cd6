"""What every peer gets and gives, and the folder in which its answer is kept for the next time."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from scipy import sparse

from benchmarks.peers.machine import machine
from cascadexml.bundle import beside
from cascadexml.data.corpus import Corpus
from cascadexml.errors import DataError
from cascadexml.labels.tfidf import Tfidf
from cascadexml.ranking import Ranking

HELD_OUT = ("dev", "test")
NGRAMS, MIN_DF, MAX_FEATURES, OPENING = 2, 2, 500_000, 12
"""TF-IDF of the linear peers: words and word pairs, as our own neighbours read them."""


@dataclass
class Clock:
    """Seconds of a block of work: by the wall, and of all this process's threads."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """A clock that stands when the block ends."""
        clock, wall, cpu = cls(), time.perf_counter(), time.process_time()
        yield clock
        clock.seconds, clock.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu

    def __add__(self, other: "Clock") -> "Clock":
        return Clock(self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds)


@dataclass(frozen=True)
class Features:
    """TF-IDF of every split, fitted on train, and what it took.

    Attributes:
        X: split → (N, V) float32.
        clocks: split → the time of it; of train with the fitting.
    """

    X: Mapping[str, sparse.csr_matrix]
    clocks: Mapping[str, Clock]


@dataclass(frozen=True, eq=False)
class Task:
    """What every peer is given: the same records, and how long its rankings are to be.

    Attributes:
        corpus: with train and test, and dev where the run has one.
        K: labels a document.
        seed: of whatever is random in a peer.
        scratch: a folder for what is handed over; it is removed at the end.
    """

    corpus: Corpus
    K: int
    seed: int
    scratch: Path

    @property
    def L(self) -> int:  # noqa: N802
        """Labels of train: the first rows of the vocabulary."""
        return self.corpus.vocabulary.L

    @property
    def held_out(self) -> list[str]:
        """The splits that are ranked."""
        return [name for name in HELD_OUT if len(self.corpus.splits.get(name, ()))]

    @cached_property
    def labels(self) -> sparse.csr_matrix:
        """(N, L) float32, those of train."""
        return self.corpus.train_labels

    @cached_property
    def features(self) -> Features:
        """TF-IDF of all splits; made when the first peer asks for it."""
        with Clock.running() as clock:
            vectorizer, X_train = Tfidf.fit(self.corpus.splits["train"].texts, NGRAMS, MIN_DF, MAX_FEATURES, OPENING)
        X, clocks = {"train": X_train}, {"train": clock}
        for name in self.held_out:
            with Clock.running() as clocks[name]:
                X[name] = vectorizer.transform(self.corpus.splits[name].texts)
        return Features(X, clocks)


@dataclass(frozen=True)
class Answer:
    """What a peer gives.

    Attributes:
        rankings: held-out split → its ranking.
        training: the time from texts and labels to a model.
        ranking: split → the time from texts to its ranking.
        machine, measured: where and when.
    """

    rankings: Mapping[str, Ranking]
    training: Clock
    ranking: Mapping[str, Clock]
    machine: str = field(default_factory=machine)
    measured: str = field(default_factory=lambda: date.today().isoformat())

    def with_features(self, features: Features) -> "Answer":
        """The same with the time that its TF-IDF took."""
        return replace(
            self,
            training=self.training + features.clocks["train"],
            ranking={name: clock + features.clocks[name] for name, clock in self.ranking.items()},
        )

    def save(self, folder: Path, key: Mapping[str, Any]) -> None:
        """Write it with what it was made of, whole or not at all."""
        content = {
            "key": key,
            "training": asdict(self.training),
            "ranking": {name: asdict(clock) for name, clock in self.ranking.items()},
            "machine": self.machine,
            "measured": self.measured,
        }
        with beside(folder) as new:
            new.mkdir()
            for name, ranking in self.rankings.items():
                ranking.save(new / f"{name}.npz")
            (new / "answer.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, key: Mapping[str, Any]) -> Self | None:
        """What `save` wrote; None where there is nothing, or it was made of something else.

        Raises:
            DataError: it is damaged.
            FormatError: one of its rankings is.
        """
        try:
            content = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
            if content.pop("key") != key:
                return None
            ranking = {name: Clock(**clock) for name, clock in content.pop("ranking").items()}
            rankings = {name: Ranking.load(folder / f"{name}.npz") for name in ranking}
            return cls(rankings, Clock(**content.pop("training")), ranking, **content)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{folder} cannot be read as a peer's answer ({error!r}): remove that folder.") from None


@dataclass(frozen=True)
class Peer:
    """A ranker of somebody else, or one of ours that stands for a plain method.

    Attributes:
        caption: what the table calls it.
        answer: fits it on train and ranks what is held out.
        settings: all that it is told; another value makes the answer anew.
        asked_for: it takes long, and runs when it is asked for by name.
    """

    caption: str
    answer: Callable[[Task, Mapping[str, Any]], Answer]
    settings: Mapping[str, Any]
    asked_for: bool = False

    def kept_or_made(self, task: Task, folder: Path) -> Answer:
        """The answer in `folder`, made and written there if it is not."""
        key = {"corpus": task.corpus.fingerprint, "K": task.K, "seed": task.seed} | {"settings": dict(self.settings)}
        if found := Answer.load(folder, key):
            return found
        made = self.answer(task, self.settings)
        made.save(folder, key)
        return made
