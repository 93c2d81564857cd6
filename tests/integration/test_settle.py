"""The promotion gate against a real registry: `settle` moves the champion's alias where it may, and nowhere else.

The task is called without the flow around it; `test_gate.py` forces both outcomes through the flow.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pytest

from cascadexml.config import load_settings
from cascadexml.data.corpus import Corpus
from cascadexml.errors import ConflictError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.judgement import Judgement
from cascadexml.metrics import Report
from cascadexml.registry import Registry, Version
from flows import tasks
from tests.conftest import REPO, S3Server
from tests.support.tiny_artifacts import pack_again, pack_tiny

pytestmark = pytest.mark.integration

REFUSED = Judgement(False, ("It is no better.",), "nDCG@5", 0.0, 0.95, 40, None, Report({"nDCG@5": 0.5}, {}))
PASSED = replace(REFUSED, promote=True, reasons=("It is better.",))


@dataclass(frozen=True)
class Gate:
    """A project whose challenger has been judged, and three published versions of its model."""

    folder: Path
    registry: Registry
    name: str
    versions: list[Version]

    def settle(self, promote: tasks.Promote, judgement: Judgement, against: Version | None) -> bool:
        """Settle the second version; whether the outcome says that it was promoted."""
        text = json.dumps(judgement.to_json())
        (self.folder / tasks.JUDGEMENT / "judgement.json").write_text(text, encoding="utf-8")
        champion = against and tasks.Champion(against, self.folder)
        outcome = tasks.settle.fn(self.folder, self.versions[1], champion, judgement, promote)
        assert outcome.version == self.versions[1].version
        assert outcome.against == (against and against.version)
        return outcome.promoted

    @property
    def champion(self) -> str | None:
        return self.registry.aliases(self.name).get(tasks.CHAMPION)


@pytest.fixture(scope="module")
def artifacts(small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    pack_tiny(folder, small_corpus)
    for i in range(3):
        pack_again(folder / str(i), folder, small_corpus, calibration=Calibration(0.3, 0.1, 0.1 * (i + 1)))
    return [folder / str(i) for i in range(3)]


@pytest.fixture
def gate(s3_server: S3Server, artifacts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    uri = f"s3://{s3_server.make_bucket()}/models"
    for name, value in {**s3_server.environment, "CASCADEXML_REGISTRY": uri}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "params.yaml").write_bytes((REPO / "params.yaml").read_bytes())
    (tmp_path / tasks.JUDGEMENT).mkdir(parents=True)
    (tmp_path / tasks.JUDGEMENT / "judgement.md").write_text("**Judged**\n", encoding="utf-8")
    registry, name = Registry(uri), load_settings(tmp_path / "params.yaml").package.name
    return Gate(tmp_path, registry, name, [registry.publish(path, name) for path in artifacts])


@pytest.mark.parametrize("judgement", [PASSED, REFUSED], ids=["passed", "refused"])
@pytest.mark.parametrize("promote", get_args(tasks.Promote))
def test_the_alias_moves_only_where_judgement_and_setting_say_so(
    gate: Gate, promote: tasks.Promote, judgement: Judgement
) -> None:
    first, second, _ = gate.versions
    gate.registry.promote(gate.name, first.version, tasks.CHAMPION, reason="first")
    allowed = {("always", True), ("always", False), ("if_better", True)}
    moves = (promote, judgement.promote) in allowed
    assert gate.settle(promote, judgement, first) is moves
    assert gate.champion == (second if moves else first).version
    (key,) = gate.registry.records(gate.name, "judgements")
    record = json.loads(gate.registry.read_record(gate.name, "judgements", key))
    assert (record["promoted"], record["against"]) == (moves, first.version)
    kept = json.loads(gate.registry.read_record(gate.name, "judgements", key, "judgement.json"))
    assert Judgement.from_json(kept) == judgement


def test_a_champion_that_was_not_judged_against_is_not_replaced(gate: Gate) -> None:
    first, _, third = gate.versions
    gate.registry.promote(gate.name, first.version, tasks.CHAMPION, reason="first")
    gate.registry.promote(gate.name, third.version, tasks.CHAMPION, reason="by another, while this one was judged")
    with pytest.raises(ConflictError, match=f"names {third.version} .*, expected {first.version}"):
        gate.settle("if_better", PASSED, first)
    with pytest.raises(ConflictError, match="expected no such alias"):
        gate.settle("if_better", PASSED, None)
    assert gate.champion == third.version


def test_done_again_it_changes_nothing(gate: Gate) -> None:
    first, second, _ = gate.versions
    gate.registry.promote(gate.name, first.version, tasks.CHAMPION, reason="first")
    for _ in range(2):
        assert gate.settle("if_better", PASSED, first)
    assert [move.target for move in gate.registry.history(gate.name)] == [first.version, second.version]
    assert len(gate.registry.records(gate.name, "judgements")) == 1


def test_the_first_of_all_becomes_champion_only_if_it_may(gate: Gate) -> None:
    assert not gate.settle("never", PASSED, None)
    assert gate.champion is None
    assert gate.settle("if_better", PASSED, None)
    assert gate.champion == gate.versions[1].version
