"""fit_ensemble() on real records with a tiny random encoder: each member a run of its own, whatever is killed."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from cascadexml.bundle import kind_of
from cascadexml.data.corpus import Corpus
from cascadexml.errors import FormatError
from cascadexml.rankers.ensemble import Ensemble
from tests.support.tiny_runs import prepare, train, train_ensemble, tree_of

KNOBS = {"epochs": 1.5, "evaluations_per_epoch": 2, "checkpoint_minutes": 0.0}
SEEDS = (4, 5)
Seen = list[tuple[int, Mapping[str, float]]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    return prepare(tmp_path_factory.mktemp("run"), small_corpus)


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seen]:
    """An ensemble that nothing interrupted, and what was recorded."""
    seen: Seen = []
    out = tmp_path_factory.mktemp("whole") / "model"
    train_ensemble(prepared, out, SEEDS, record=lambda step, figures: seen.append((step, figures)), **KNOBS)
    return out, seen


def content(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def steady(seen: Seen) -> list[tuple[int, dict[str, float]]]:
    """What does not depend on the clock or the memory."""
    return [(step, {k: v for k, v in figures.items() if "loss" in k or "dev" in k}) for step, figures in seen]


class Killed(Exception):  # noqa: N818
    """Stands for the end of the process."""


def test_a_member_is_what_its_seed_and_its_tree_give_alone(
    prepared: Path, whole: tuple[Path, Seen], tmp_path: Path
) -> None:
    out, seen = whole
    members = [content(out / f"member_{i}") for i in range(2)]
    for i, seed in enumerate(SEEDS):
        alone: Seen = []
        train(
            prepared, tmp_path / str(i) / "model", seed=seed, tree=tree_of(prepared, seed),
            record=lambda step, figures, alone=alone: alone.append((step, figures)), **KNOBS,
        )  # fmt: skip
        assert content(tmp_path / str(i) / "model") == members[i]
        told = [(step, {k: v for k, v in f.items() if k.startswith(f"member_{i}/")}) for step, f in seen]
        assert steady([(step, f) for step, f in told if f]) == [
            (step, {f"member_{i}/{name}": value for name, value in f.items()}) for step, f in steady(alone)
        ]
    tree, weights = "network/tree/tree.safetensors", "network/model.safetensors"
    assert members[0][tree] != members[1][tree] and members[0][weights] != members[1][weights]
    assert Ensemble.load(out, "cpu").members[1].network.tree.levels == (8, 64)
    assert list((out.parent / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(("member", "moment"), [(0, 12), (1, 1), (1, 12)])
def test_killed_in_any_member_it_goes_on_there_to_the_same_bytes(
    prepared: Path, whole: tuple[Path, Seen], tmp_path: Path, member: int, moment: int
) -> None:
    def die(step: int, figures: Mapping[str, float]) -> None:
        if step >= moment and next(iter(figures)).startswith(f"member_{member}/"):
            raise Killed

    out, again = tmp_path / "model", []
    with pytest.raises(Killed):
        train_ensemble(prepared, out, SEEDS, record=die, **KNOBS)
    assert not out.exists()
    kept = {path.name for path in (tmp_path / "checkpoints").glob("*.trained")}
    assert len(kept) == member
    train_ensemble(prepared, out, SEEDS, record=lambda step, figures: again.append((step, figures)), **KNOBS)
    assert content(out) == content(whole[0])
    assert steady(again) == steady(whole[1])
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_member_that_is_done_is_not_trained_again(prepared: Path, tmp_path: Path) -> None:
    def die(step: int, figures: Mapping[str, float]) -> None:
        if next(iter(figures)).startswith("member_1/"):
            raise Killed

    with pytest.raises(Killed):
        train_ensemble(prepared, tmp_path / "model", SEEDS, record=die, **KNOBS)
    (done,) = (tmp_path / "checkpoints").glob("*.trained")
    # A mark that training would not leave: what is told and taken is what lies there.
    (done / "curves.json").write_text(json.dumps([[7, {"mark": 1.0}]]))
    seen: Seen = []
    train_ensemble(prepared, tmp_path / "model", SEEDS, record=lambda s, f: seen.append((s, f)), **KNOBS)
    assert seen[0] == (7, {"member_0/mark": 1.0})
    assert not [f for _, f in seen if "member_0/loss/total" in f]


def test_a_member_that_was_damaged_while_it_waited_is_refused(prepared: Path, tmp_path: Path) -> None:
    def damage(step: int, figures: Mapping[str, float]) -> None:
        if next(iter(figures)).startswith("member_1/"):
            (file,) = (tmp_path / "checkpoints").glob("*.trained/model/network/config.json")
            file.write_text("{}")

    with pytest.raises(FormatError, match=r"config\.json"):
        train_ensemble(prepared, tmp_path / "model", SEEDS, record=damage, **{**KNOBS, "epochs": 0.5})
    assert not (tmp_path / "model").exists()


def test_one_run_is_no_ensemble(prepared: Path, tmp_path: Path) -> None:
    seen: Seen = []
    train_ensemble(prepared, tmp_path / "model", [4], record=lambda s, f: seen.append((s, f)), **KNOBS)
    assert kind_of(tmp_path / "model") == "cascadexml.ranker.cascade"
    assert not [name for _, figures in seen for name in figures if name.startswith("member")]
