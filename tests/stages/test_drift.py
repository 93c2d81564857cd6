"""The stage `drift` where no later batch has come; batches are in tests/integration/test_drift_stage.py."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cascadexml.config import Settings
from cascadexml.errors import CascadeXMLError
from stages import DRIFT, drift
from tests.support.params import SETTINGS


@pytest.fixture
def own(tmp_path: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of own data, in a project whose folder for later batches is as it is in git."""
    shutil.copytree(repo_root / "data" / "incoming", tmp_path / "data" / "incoming")
    monkeypatch.chdir(tmp_path)
    return replace(SETTINGS, drift=replace(SETTINGS.drift, batch="data/incoming"))


def test_with_no_later_batch_the_stage_says_so_and_compares_nothing(own: Settings) -> None:
    drift.main(own, [])
    (file,) = DRIFT.iterdir()
    assert file.name == "verdict.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    assert told["verdict"] is None
    assert told["reasons"][0].startswith("data/incoming holds no records: put later records there")


@pytest.mark.parametrize("arguments", [[], ["--batch", "data/incoming"]])
def test_a_batch_that_has_come_or_is_asked_for_wants_its_model(arguments: list[str], own: Settings) -> None:
    if not arguments:
        Path("data/incoming/later.jsonl").write_text('{"id": "1", "text": "water", "labels": ["a"]}\n')
    with pytest.raises(CascadeXMLError, match="data/models/artifact"):
        drift.main(own, arguments)
    assert not DRIFT.exists()
