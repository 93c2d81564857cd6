"""How often the gate refuses a good challenger by chance: what falls between two rankings of equal quality.

    python benchmarks/judgement.py RANKING CORPUS [--noise 0.3 0.6] [--draws 400] [--params params.yaml]

RANKING is the model's ranking of the test split, as `evaluate` leaves it in data/interim/held_out/test.npz. Champion
and challenger are two copies of it, each with normal noise of its own on the logarithms of the scores: neither is
better, and the more noise, the more they differ. One JSON line a noise: how alike they are, how often the challenger
counts as better on the metric all the same, and how often a guard or slice falls, by the smallest slice looked at.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cascadexml.config import load_settings
from cascadexml.data.corpus import Corpus
from cascadexml.evaluation.judge import judge, slices_of
from cascadexml.evaluation.judgement import Judgement
from cascadexml.progress import console_progress
from cascadexml.ranking import Ranking

MIN_SLICES = (50, 100, 250, 500)
FIRST = 5


def main() -> None:
    """Print one line a noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ranking", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.3, 0.6])
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    arguments = parser.parse_args()
    settings = load_settings(arguments.params)
    ranking, corpus = Ranking.load(arguments.ranking), Corpus.load(arguments.corpus)
    test, Y_train = corpus.splits["test"], corpus.splits["train"].Y
    slices = slices_of(test.metadata, settings.judge.slices)
    chosen = replace(settings.judge, min_slice=min(MIN_SLICES))
    progress = console_progress()
    for noise in arguments.noise:
        random = np.random.default_rng(settings.seed)
        judgements, alike = [], []
        for draw in range(arguments.draws):
            champion, challenger = noisy(ranking, noise, random), noisy(ranking, noise, random)
            alike.append(shared(champion, challenger))
            judgements.append(
                judge(champion, challenger, test.Y, Y_train, slices, chosen, settings.evaluate, settings.seed + draw)
            )
            progress(f"noise {noise}", draw + 1, arguments.draws, {})
        print(
            json.dumps({"noise": noise, "shared_first_5": round(float(np.mean(alike)), 3)} | line(judgements)),
            flush=True,
        )


def noisy(ranking: Ranking, noise: float, random: np.random.Generator) -> Ranking:
    """The same labels in the order of disturbed scores."""
    with np.errstate(divide="ignore"):
        scores = np.log(np.maximum(ranking.scores, 0)) + random.normal(0, noise, ranking.shape).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")
    return Ranking(*(np.take_along_axis(each, order, axis=1) for each in (ranking.labels, scores)))


def shared(one: Ranking, other: Ranking) -> float:
    """The share of the first five labels that both have among their first five."""
    return float((one.labels[:, :FIRST, None] == other.labels[:, None, :FIRST]).any(axis=2).mean())


def line(judgements: Sequence[Judgement]) -> dict[str, object]:
    """What is said of the judgements at one noise."""
    fell_by_size = {
        str(size): share(
            any(each.failed for each in (*found.guards, *(part for part in found.slices if part.documents >= size)))
            for found in judgements
        )
        for size in MIN_SLICES
    }
    first = judgements[0]
    return {
        "draws": len(judgements),
        "better": share((found.lower_bound or 0.0) > found.margin for found in judgements),
        "something_fell_by_min_slice": fell_by_size,
        "guards_fell": {
            guard.name: share(found.guards[i].failed for found in judgements) for i, guard in enumerate(first.guards)
        },
        "slices_fell": {
            f"{part.name}, {part.documents}": share(found.slices[i].failed for found in judgements)
            for i, part in enumerate(first.slices)
        },
    }


def share(happened: Iterable[bool]) -> float:
    """How often it did."""
    return round(float(np.mean(list(happened))), 3)


if __name__ == "__main__":
    main()
