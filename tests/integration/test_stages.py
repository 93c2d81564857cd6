"""Which stages a flow runs and pushes, with the real DVC on stages of one line."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from flows import tasks

pytestmark = pytest.mark.integration

STAGES = ["first", "second", "third"]
YAML = """
stages:
  first:
    cmd: python -c "open('one', 'w').write('1')"
    params: [a]
    outs: [one]
  second:
    cmd: python -c "open('two', 'w').write(open('one').read())"
    deps: [one]
    params: [b]
    outs: [two]
  third:
    cmd: python -c "open('three', 'w').write(open('two').read())"
    deps: [two]
    outs: [three]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three stages that have run."""
    folder = tmp_path_factory.mktemp("stages")
    (folder / "dvc.yaml").write_text(YAML, encoding="utf-8")
    (folder / "params.yaml").write_text("{a: 1, b: 1}", encoding="utf-8")
    for command in (["init", "--no-scm", "--quiet"], ["repro", "--quiet"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=folder, check=True, timeout=120)
    return folder


def up_to_date(folder: Path) -> list[str]:
    with disable_run_logger():
        return tasks.up_to_date.fn(STAGES, folder)


def lose_the_lock(folder: Path) -> None:
    (folder / "dvc.lock").unlink()


def lose_an_out(folder: Path) -> None:
    (folder / "two").unlink()


def change_an_out(folder: Path) -> None:
    (folder / "two").unlink()
    (folder / "two").write_text("other", encoding="utf-8")


def change_a_parameter(folder: Path) -> None:
    (folder / "params.yaml").write_text("{a: 1, b: 2}", encoding="utf-8")


def change_a_command(folder: Path) -> None:
    (folder / "dvc.yaml").write_text(YAML.replace("open('one').read()", "open('one').read() * 2"), encoding="utf-8")


def break_the_pipeline(folder: Path) -> None:
    (folder / "dvc.yaml").write_text("stages: [", encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (None, STAGES),
        (lose_the_lock, []),
        (lose_an_out, ["first"]),
        (change_an_out, ["first"]),
        (change_a_parameter, ["first"]),
        (change_a_command, ["first"]),
        (break_the_pipeline, []),
    ],
)
def test_what_need_not_run_is_the_head_of_the_list(
    project: Path, tmp_path: Path, change: Callable[[Path], None] | None, expected: list[str]
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    if change:
        change(folder)
    assert up_to_date(folder) == expected
