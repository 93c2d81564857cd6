"""TF-IDF nearest neighbours: the project's own baseline."""

from collections.abc import Mapping
from typing import Any

from benchmarks.peers.base import Answer, Clock, Task
from cascadexml.rankers.base import Documents
from cascadexml.rankers.neighbours import NearestNeighbours


def answer(task: Task, settings: Mapping[str, Any]) -> Answer:
    """Index train, and rank what is held out by its neighbours' votes."""
    train = Documents(task.corpus.splits["train"].texts)
    with Clock.running() as training:
        ranker = NearestNeighbours.fit(
            train, task.labels, settings["neighbours"], ngrams=settings["ngrams"], opening=settings["opening"]
        )
    rankings, clocks = {}, {}
    for name in task.held_out:
        with Clock.running() as clocks[name]:
            rankings[name] = ranker.rank(Documents(task.corpus.splits[name].texts), task.K)
    return Answer(rankings, training, clocks)
