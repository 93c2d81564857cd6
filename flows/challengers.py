"""Which challengers a retraining tries, in which order, what each changes of params.yaml, and what is left to try."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from cascadexml.artifact.formats import ARTIFACT
from cascadexml.artifact.predecessor import check_trainable
from cascadexml.config import Challenger, Settings, overrides
from cascadexml.errors import ConfigError
from flows.records import Plan, Retraining, Start

MOST_SURE = 0.999
"""What judge.confidence may be at most."""


def make_plans(
    settings: Settings, params: str, champion: str, batches: Sequence[str], challenger: Challenger
) -> list[Plan]:
    """What goes into each attempt of a retraining; a later one is made only if those before it did not win.

    Args:
        settings: of the project.
        params: SHA-256 of its params.yaml.
        champion: the version to start from.
        batches: keys of all accepted batches.
        challenger: what is asked for.

    Raises:
        ConfigError: `judge.confidence` leaves no room for two attempts; a pair in `retrain.settings` is no setting.
    """
    starts: tuple[Start, ...] = ("refit", "warm") if challenger == "refit_first" else (challenger,)
    stricter = _stricter(settings, len(starts))
    extra = settings.retrain.settings
    return [
        Plan(champion, tuple(sorted(batches)), start, (*changes(start, extra), *stricter), params) for start in starts
    ]


def check_start(champion: Path, challenger: Challenger) -> None:
    """Refuse at once, and not after the first stages, to train on from a champion that cannot be.

    Raises:
        ConfigError: the champion was exported, and the challenger would not start from the beginning.
    """
    if challenger != "cold":
        check_trainable(ARTIFACT.read(champion, digests=False))


def changes(start: Start, extra: Sequence[str]) -> tuple[str, ...]:
    """The settings, key=value, that make a challenger start so; `extra` are `retrain.settings`."""
    if start == "cold":
        return ()
    warm = ("train.warm_start=true", *extra)
    return (*warm, "train.epochs=0") if start == "refit" else warm


def _stricter(settings: Settings, attempts: int) -> tuple[str, ...]:
    """The confidence asked of each attempt, where there are several, so that all together promote one that is no
    better as seldom as a single one would (Bonferroni)."""
    if attempts == 1:
        return ()
    laid_over = overrides.values_of(settings.retrain.settings).get("judge", {})
    confidence = laid_over.get("confidence", settings.judge.confidence)
    each = round(1 - (1 - confidence) / attempts, 6)
    if each > MOST_SURE:
        raise ConfigError(
            f"judge.confidence is {confidence}: {attempts} challengers in turn are judged at {each} each, above "
            f"{MOST_SURE}; lower it, or ask for one challenger (retrain.challenger: refit, warm or cold)."
        )
    return (f"judge.confidence={each}",)


def left_to_try(plans: Sequence[Plan], done: Iterable[Retraining]) -> tuple[list[Plan], str]:
    """Those of `plans` that have not been tried, and where there are none, why.

    A champion that was refitted has a network that has not learnt from the batches: whoever asks for that alone gets
    it; after a refit that won, `refit_first` is content.

    Args:
        plans: of one retraining, in order.
        done: all retrainings so far.
    """
    first, done = plans[0], list(done)
    for each in done:
        if each.outcome.version == first.champion and each.plan.batches == first.batches:
            if each.plan.challenger != "refit":
                return [], "The champion was trained on all accepted batches."
            if first.challenger == "refit":
                return [], "The champion was refitted on all accepted batches; challenger=warm trains its network too."
    if not first.batches:
        return [], "No batch has been accepted since the source was read."
    tried = {each.plan.key for each in done}
    left = [plan for plan in plans if plan.key not in tried]
    return left, "" if left else "These batches have been tried against this champion, and it stayed."
