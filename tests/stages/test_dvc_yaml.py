"""dvc.yaml against the code: a stage depends on each module that its result depends on, and on its own settings."""

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
STAGES: dict[str, Any] = yaml.safe_load((REPO / "dvc.yaml").read_text(encoding="utf-8"))["stages"]

# Carry data, settings or messages from one stage to the next; what they carry is itself a dependency.
CARRIERS = {
    f"cascadexml/{name}.py"
    for name in (
        "artifact/artifact",
        "bundle",
        "config/__init__",
        "data/corpus",
        "data/vocabulary",
        "errors",
        "progress",
        "registry/opening",
    )
}
# In git with a README alone; users and flows put files there.
GIVEN = {"data/accepted", "data/base"}
WRITES = {
    "validate": {"cascadexml/data/corpus.py", "cascadexml/data/vocabulary.py"},
    "package": {"cascadexml/artifact/artifact.py"},
}
# Imported by way of another module, never run.
NOT_RUN = {
    "train": {"cascadexml/evaluation/calibration.py"},
    "package": {"cascadexml/metrics/__init__.py", "cascadexml/ranking.py"},
}


def module_file(name: str) -> str | None:
    path = Path(name.replace(".", "/"))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if (REPO / file).is_file():
            return file.as_posix()
    return None


def imported(file: str) -> set[str]:
    """Files of the library that a file imports, also inside functions, but not for type checking only."""
    tree = ast.parse((REPO / file).read_text(encoding="utf-8"))
    checking_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if node in checking_only or not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("casc"):
            continue
        for alias in node.names:
            found.add(module_file(f"{node.module}.{alias.name}") or module_file(str(node.module)))
    return {file for file in found if file and file != "cascadexml/__init__.py"}


def matters(file: str, exempt: set[str]) -> set[str]:
    found: set[str] = set()
    todo = [file]
    while todo:
        new = imported(todo.pop()) - exempt - found
        found |= new
        todo += new
    return found


def script(stage: str) -> str:
    return "stages/" + STAGES[stage]["cmd"].removeprefix("python -m stages.") + ".py"


def test_the_stages_are_there_in_order() -> None:
    names = "download validate tokenize cluster train evaluate reference package drift"
    assert list(STAGES) == names.split()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_runs(stage: str) -> None:
    deps = STAGES[stage]["deps"]
    exempt = (CARRIERS | NOT_RUN.get(stage, set())) - WRITES.get(stage, set())
    needed = matters(script(stage), exempt) | {script(stage)}
    missing = {file for file in needed if not any(file == dep or file.startswith(f"{dep}/") for dep in deps)}
    assert not missing
    stale = [dep for dep in deps if dep.startswith(("stages/", "cascadexml/")) and not (REPO / dep).exists()]
    assert not stale


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_settings_that_it_reads(stage: str) -> None:
    tree = ast.parse((REPO / script(stage)).read_text(encoding="utf-8"))
    read = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    read = {text.removeprefix("settings.") for text in read if text.startswith("settings.")}
    declared = STAGES[stage]["params"]
    for key in read:
        assert any(key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.") for name in declared), key


def test_what_a_stage_needs_from_another_is_an_out_of_an_earlier_one() -> None:
    made: set[str] = set()
    for stage in STAGES.values():
        for dep in stage["deps"]:
            assert not dep.startswith("data/") or dep in made | GIVEN, dep
        made |= set(stage["outs"]) | {next(iter(metric)) for metric in stage.get("metrics", [])}
