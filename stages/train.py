"""train: the corpus, its tokens, the label trees and, for a warm start, the base → the networks best on dev."""

import argparse
import logging
import os
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

from dvclive.live import Live

from cascadexml.artifact.predecessor import open_predecessor
from cascadexml.bundle import beside
from cascadexml.config import Settings
from cascadexml.config.train import member_seeds
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.labels.forest import load_trees
from cascadexml.progress import console_progress
from cascadexml.rankers.cascade.network import FORMAT as NETWORK_FORMAT
from cascadexml.training.ensemble import fit_ensemble
from cascadexml.training.profiling import profile_steps
from cascadexml.training.run import Run
from stages import BASE, CHECKPOINTS, CORPUS, MODEL, REPORTS, TOKENS, TREE, run

PROFILE = REPORTS / "profile.txt"

log = logging.getLogger(__name__)


def main(settings: Settings, profile: int | None = None) -> None:
    """Train with DVCLive keeping the curves; torchrun starts as many processes as it is told to.

    Args:
        settings: all of them.
        profile: take so many steps only, and tell where they go.
    """
    runs = runs_of(settings)
    if profile is not None:
        report = profile_steps(runs[0], profile, console_progress())
        with beside(PROFILE) as new:
            new.write_text(report, encoding="utf-8")
        log.info("%s:\n%s", PROFILE, report)
        return
    leads = os.environ.get("RANK", "0") == "0"
    with Live(str(REPORTS / "training"), dvcyaml=None, save_dvc_exp=False) if leads else nullcontext() as live:

        def record(step: int, figures: Mapping[str, float]) -> None:
            if live is None:
                return
            live.step = step
            for name, value in figures.items():
                live.log_metric(name, value)

        fit_ensemble(runs, out=MODEL, checkpoints=CHECKPOINTS, progress=console_progress(), record=record)


def runs_of(settings: Settings) -> list[Run]:
    """What each member of the ensemble is trained on."""
    corpus = Corpus.load(CORPUS, ["train", "dev"])
    older = open_predecessor(BASE, corpus.vocabulary) if settings.train.warm_start else None
    members = settings.train.ensemble
    bases = older.parts("network", NETWORK_FORMAT, members) if older else [None] * members
    tokens = {name: TokenStore.open(TOKENS / name) for name in ("train", "dev")}
    return [
        Run(
            corpus=corpus,
            tokens=tokens,
            tree=tree,
            encoder=settings.encoder,
            settings=settings.train,
            seed=seed,
            propensity_a=settings.evaluate.propensity_a,
            propensity_b=settings.evaluate.propensity_b,
            base=base,
        )
        for tree, seed, base in zip(load_trees(TREE, members), member_seeds(settings.seed, members), bases, strict=True)
    ]


def asked() -> int | None:
    """What `--profile` says."""
    parser = argparse.ArgumentParser(prog="python -m stages.train")
    parser.add_argument(
        "--profile", type=int, metavar="STEPS", help=f"take so many steps only, and write where they go to {PROFILE}"
    )
    steps: int | None = parser.parse_args().profile
    return steps


if __name__ == "__main__":
    run(partial(main, profile=asked()))
