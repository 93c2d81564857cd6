"""How a retraining goes through its challengers; their training and their judgement stand in for themselves."""

import logging
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cascadexml.artifact.formats import ARTIFACT
from cascadexml.errors import ConfigError
from cascadexml.registry import Version
from flows import retraining, tasks
from flows.records import Outcome, Plan, Retraining
from tests.conftest import REPO

REFIT = Plan("v1", ("march-02",), "refit", ("train.epochs=0",), "0" * 64)
WARM = Plan("v1", ("march-02",), "warm", (), "0" * 64)
CHAMPION = tasks.Champion(Version("m", "v1", "s3://b/p/m/versions/v1", datetime.now(UTC), "f", {}, {}), Path("cache"))


@dataclass
class Judge:
    """What becomes of the challengers in turn, and what happened."""

    outcomes: list[Outcome]
    happened: list[str] = field(default_factory=list)

    def decide(self, workspace: Path, champion: tasks.Champion, promote: str) -> Outcome:
        self.happened.append(f"judged {workspace.name}")
        assert champion == CHAMPION and promote == "if_better"
        return self.outcomes.pop(0)

    def prepare(self, folder: Path, workspace: Path, champion: tasks.Champion, plan: Plan) -> None:
        assert workspace == folder / "data" / "workspaces" / plan.key
        workspace.mkdir(parents=True)
        self.happened.append(f"prepared {plan.key}")

    def note(self, folder: Path, done: Retraining) -> None:
        self.happened.append(f"noted {done.plan.key} {done.outcome.version}")


def outcome(version: str, promoted: bool) -> Outcome:
    return Outcome(f"s3://b/p/m@{version}", version, "v1", promoted, ())


def tried(folder: Path, patch: pytest.MonkeyPatch, *outcomes: Outcome) -> tuple[list[Retraining], list[str]]:
    """The challengers that were tried where these would become of them, and what happened in order."""
    judge = Judge(list(outcomes))
    patch.setattr(retraining, "prepare", judge.prepare)
    patch.setattr(retraining, "note", judge.note)
    patch.setattr(retraining, "keep_reports", lambda workspace, kept: kept)
    patch.setattr(retraining, "report", lambda reports: None)
    patch.setattr(retraining, "get_run_logger", logging.getLogger)
    patch.setattr(tasks, "dvc_stages", lambda folder: ["train", "drift"])
    patch.setattr(tasks, "run_stages", lambda stages, folder: judge.happened.append(f"ran {' '.join(stages)}"))
    patch.setattr(tasks, "decide", judge.decide)
    found = retraining.try_in_turn(folder, CHAMPION, [REFIT, WARM], "march-02", "drift")
    assert not list((folder / "data" / "workspaces").iterdir())
    return found, judge.happened


def test_an_exported_champion_is_refused_before_batches_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_from = {"format": "onnx", "precision": "int8", "artifact": "0" * 64, "ranker": "1" * 64}
    with ARTIFACT.write(tmp_path / "exported", {"exported": made_from}):
        pass
    (tmp_path / "params.yaml").write_bytes((REPO / "params.yaml").read_bytes())
    monkeypatch.setattr(tasks, "pull_champion", lambda folder: replace(CHAMPION, path=tmp_path / "exported"))
    looked_up: list[Path] = []
    monkeypatch.setattr(retraining, "accepted", lambda folder: looked_up.append(folder) or [])
    with pytest.raises(ConfigError, match="challenger=cold"):
        retraining.retraining.fn(project=str(tmp_path))
    assert not looked_up


def steps(plan: Plan, version: str) -> list[str]:
    return [f"prepared {plan.key}", "ran train", f"judged {plan.key}", f"noted {plan.key} {version}"]


def test_a_refit_that_wins_spares_the_network_its_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, happened = tried(tmp_path, monkeypatch, outcome("v2", True), outcome("v3", True))
    assert found == [Retraining(REFIT, outcome("v2", True), "march-02", "drift")]
    assert happened == steps(REFIT, "v2")


@pytest.mark.parametrize("promoted", [True, False])
def test_a_refit_that_is_no_better_is_noted_before_the_network_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promoted: bool
) -> None:
    found, happened = tried(tmp_path, monkeypatch, outcome("v2", False), outcome("v3", promoted))
    assert [(each.plan, each.outcome) for each in found] == [
        (REFIT, outcome("v2", False)),
        (WARM, outcome("v3", promoted)),
    ]
    assert happened == steps(REFIT, "v2") + steps(WARM, "v3")


def test_a_refit_that_is_the_champion_itself_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that broke off after the promotion and before the note makes the same version again."""
    found, _ = tried(tmp_path, monkeypatch, outcome("v1", False), outcome("v3", True))
    assert [each.plan for each in found] == [REFIT]
