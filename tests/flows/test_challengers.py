"""Which challengers a retraining tries: their settings as the stages read them, the doubt they share, what is left."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from cascadexml.artifact.formats import ARTIFACT
from cascadexml.config import Challenger, Settings, load_settings, overrides
from cascadexml.errors import ConfigError
from flows.challengers import check_start, left_to_try, make_plans
from flows.records import Outcome, Plan, Retraining
from tests.conftest import REPO

BATCHES = ("april-01", "march-02")
RATES = ["train.encoder_lr=0.0001", "train.head_lr=0.001"]


def project(folder: Path, *changes: str) -> Settings:
    """The settings of params.yaml as it is shipped, with these changes; the file lies in `folder`."""
    return changed(REPO / "params.yaml", folder / "params.yaml", changes)


def changed(source: Path, target: Path, changes: Sequence[str]) -> Settings:
    target.write_bytes(source.read_bytes())
    overrides.apply(target, changes)
    return load_settings(target)


def plans(settings: Settings, challenger: Challenger, batches: Sequence[str] = BATCHES) -> list[Plan]:
    return make_plans(settings, "0" * 64, "v1", batches, challenger)


def seen(folder: Path, plan: Plan) -> Settings:
    """The settings that the stages of this challenger's workspace read."""
    return changed(folder / "params.yaml", folder / f"{plan.key}.yaml", plan.settings)


def done(plan: Plan, promoted: bool, version: str = "v2") -> Retraining:
    return Retraining(plan, Outcome(f"s3://b/p/m@{version}", version, plan.champion, promoted, ()), None, "schedule")


@pytest.mark.parametrize(
    ("challenger", "starts"),
    [("refit", ["refit"]), ("warm", ["warm"]), ("cold", ["cold"]), ("refit_first", ["refit", "warm"])],
)
def test_what_is_asked_for_is_tried_in_order(tmp_path: Path, challenger: Challenger, starts: list[str]) -> None:
    found = plans(project(tmp_path), challenger)
    assert [plan.challenger for plan in found] == starts
    assert len({plan.key for plan in found}) == len(starts)
    assert {(plan.champion, plan.batches) for plan in found} == {("v1", BATCHES)}


@pytest.mark.parametrize("challenger", [each for each in get_args(Challenger) if each != "cold"])
def test_an_exported_champion_is_refused_before_any_work_but_for_a_cold_start(
    tmp_path: Path, challenger: Challenger
) -> None:
    made_from = {"format": "onnx", "precision": "int8", "artifact": "0" * 64, "ranker": "1" * 64}
    for name, meta in (("exported", {"exported": made_from}), ("trained", {})):
        with ARTIFACT.write(tmp_path / name, meta):
            pass
    check_start(tmp_path / "trained", challenger)
    check_start(tmp_path / "exported", "cold")
    with pytest.raises(ConfigError, match=f"exported to onnx.*{'0' * 64}.*challenger=cold"):
        check_start(tmp_path / "exported", challenger)


def test_a_refit_takes_the_champions_network_and_trains_no_step(tmp_path: Path) -> None:
    own = project(tmp_path, f"retrain.settings={[*RATES, 'train.epochs=9', 'blend.folds=3']}")
    (refit,), (warm,), (cold,) = (plans(own, asked) for asked in ("refit", "warm", "cold"))
    train = seen(tmp_path, refit).train
    assert train.warm_start and train.epochs == 0
    assert seen(tmp_path, refit).blend.folds == 3
    train = seen(tmp_path, warm).train
    assert train.warm_start and train.epochs == 9 and train.encoder_lr == 0.0001
    assert seen(tmp_path, cold) == own and not own.train.warm_start


def test_the_shipped_rates_are_half_those_of_a_first_training(tmp_path: Path) -> None:
    own = project(tmp_path)
    (plan,) = plans(own, "warm")
    warm = seen(tmp_path, plan).train
    assert (2 * warm.encoder_lr, 2 * warm.head_lr) == (own.train.encoder_lr, own.train.head_lr)
    assert warm.epochs == own.train.epochs


@pytest.mark.parametrize(
    ("changes", "single", "each"),
    [
        ([], 0.95, 0.975),
        (["judge.confidence=0.9"], 0.9, 0.95),
        (["retrain.settings=[judge.confidence=0.8]"], 0.8, 0.9),
        (["judge.confidence=0.998"], 0.998, 0.999),
    ],
)
def test_two_looks_share_the_doubt_of_one(tmp_path: Path, changes: list[str], single: float, each: float) -> None:
    own = project(tmp_path, *changes)
    for asked in get_args(Challenger):
        tried = plans(own, asked)
        confidences = [seen(tmp_path, plan).judge.confidence for plan in tried]
        if asked != "cold":
            assert confidences == ([each, each] if asked == "refit_first" else [single])
            # By the union bound a challenger that is no better gets through this seldom, however often one is tried.
            assert sum(1 - each for each in confidences) == pytest.approx(1 - single)


def test_doubt_that_cannot_be_shared_is_one_sentence(tmp_path: Path) -> None:
    own = project(tmp_path, "judge.confidence=0.9985")
    with pytest.raises(ConfigError, match=r"judge\.confidence is 0\.9985.*retrain\.challenger"):
        plans(own, "refit_first")
    assert len(plans(own, "refit")) == 1


def test_a_retraining_that_broke_off_after_the_refit_goes_on_with_the_warm_start(tmp_path: Path) -> None:
    refit, warm = plans(project(tmp_path), "refit_first")
    assert left_to_try([refit, warm], []) == ([refit, warm], "")
    assert left_to_try([refit, warm], [done(refit, False)]) == ([warm], "")
    left, why = left_to_try([refit, warm], [done(refit, False), done(warm, False, "v3")])
    assert left == [] and "it stayed" in why


def test_a_champion_that_knows_all_batches_is_left_alone(tmp_path: Path) -> None:
    own = project(tmp_path)
    (warm,) = plans(own, "warm")
    after = [replace(plan, champion="v2") for plan in plans(own, "refit_first")]
    left, why = left_to_try(after, [done(warm, True)])
    assert left == [] and "trained on all" in why
    more = [replace(plan, batches=(*BATCHES, "may-03")) for plan in after]
    assert left_to_try(more, [done(warm, True)]) == (more, "")


def test_after_a_refit_that_won_the_network_trains_only_for_who_asks(tmp_path: Path) -> None:
    own = project(tmp_path)
    refit = plans(own, "refit_first")[0]
    asked: Challenger
    for asked in ("refit", "refit_first"):
        left, why = left_to_try([replace(plan, champion="v2") for plan in plans(own, asked)], [done(refit, True)])
        assert left == [] and "challenger=warm" in why
    for asked in ("warm", "cold"):
        after = [replace(plan, champion="v2") for plan in plans(own, asked)]
        assert left_to_try(after, [done(refit, True)]) == (after, "")


def test_without_batches_there_is_nothing_to_try(tmp_path: Path) -> None:
    left, why = left_to_try(plans(project(tmp_path), "refit_first", ()), [])
    assert left == [] and "No batch" in why
