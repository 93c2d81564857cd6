"""`cascadexml params …`, which `make run` calls; what is written stands in tests/config/test_presets.py."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.command_line import cascadexml


@pytest.fixture
def params(tmp_path: Path, repo_root: Path) -> Path:
    return Path(shutil.copy(repo_root / "params.yaml", tmp_path / "other.yaml"))


def test_set_writes_the_file_that_is_named(params: Path) -> None:
    ended = cascadexml("params", "set", "--file", params, "train.epochs=3", "--source", "my-data")
    assert (ended.exit_code, ended.output) == (0, "")
    tree = yaml.safe_load(params.read_text(encoding="utf-8"))
    assert (tree["train"]["epochs"], tree["download"]["source"]) == (3, "my-data")


def test_check_says_ok_or_what_is_wrong_in_any_section(params: Path) -> None:
    ended = cascadexml("params", "check", "--file", params)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, f"{params}: ok\n", "")
    text = params.read_text(encoding="utf-8")
    params.write_text(text.replace("attempts: 4", "attempts: 40"), encoding="utf-8")
    ended = cascadexml("params", "check", "--file", params)
    assert (ended.exit_code, ended.stdout) == (1, "")
    assert ended.stderr == (f"cascadexml: error: {params}: registry.attempts is 40, expected a number from 1 to 20.\n")


@pytest.mark.parametrize(("command", "missing"), [("set", "ruamel.yaml"), ("set", "yaml"), ("check", "yaml")])
def test_without_the_pipeline_extra_it_says_what_to_install(
    command: str, missing: str, params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "cascadexml.config.overrides", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    ended = cascadexml("params", command, "--file", params)
    assert ended.exit_code == 1
    assert 'pip install "cascadexml[pipeline]"' in ended.stderr
    assert ended.stderr.count("\n") == 1
