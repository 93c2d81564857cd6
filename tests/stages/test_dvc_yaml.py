"""dvc.yaml against the code: a stage depends on all code that it imports, on its settings, and on nothing else."""

import ast
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
STAGES: dict[str, Any] = yaml.safe_load((REPO / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# In git with a README alone; users and flows put files there.
GIVEN = {"data/accepted", "data/base", "${encoder.files}", "${download.source}", "${drift.batch}"}
# Chooses what a stage computes with, and is no code of ours.
LOCK = "requirements.lock"


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("cascadexml", "stages", exclude_type_checking_imports=True, cache_dir=None)


def file_of(module: str) -> str:
    path = Path(module.replace(".", "/"))
    file = path / "__init__.py" if (REPO / path).is_dir() else path.with_suffix(".py")
    return file.as_posix()


def source(module: str) -> str:
    return (REPO / file_of(module)).read_text(encoding="utf-8")


def packages_of(module: str) -> set[str]:
    """The packages whose `__init__` runs when a module is imported, but for lazily naming ones (PEP 562)."""
    parts = module.split(".")
    packages = {".".join(parts[:end]) for end in range(1, len(parts))}
    return {package for package in packages if "\ndef __getattr__(" not in source(package)}


def imported_by_name(graph: grimp.ImportGraph, module: str) -> set[str]:
    """What a module may import by a name that it computes: any in its package."""
    if "import_module(" not in source(module):
        return set()
    package = module if graph.find_children(module) else module.rpartition(".")[0]
    return graph.find_descendants(package)


def closure(graph: grimp.ImportGraph, stage: str) -> set[str]:
    """The files of all modules that a stage imports, directly or not, also inside functions."""
    found: set[str] = set()
    todo = {f"stages.{stage}"}
    while todo:
        module = todo.pop()
        found.add(module)
        new = packages_of(module) | graph.find_modules_directly_imported_by(module) | imported_by_name(graph, module)
        todo |= new - found
    return {file_of(module) for module in found}


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


def test_the_stages_are_there_in_order() -> None:
    names = "download validate tokenize cluster train linear blend evaluate reference package drift"
    assert list(STAGES) == names.split()
    scripts = {path.stem for path in (REPO / "stages").glob("*.py")} - {"__init__"}
    assert scripts == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_imports_and_on_no_other(stage: str, graph: grimp.ImportGraph) -> None:
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    needed = closure(graph, stage)
    deps = [dep for dep in STAGES[stage]["deps"] if dep.startswith(("stages/", "cascadexml/"))]
    missing = sorted(file for file in needed if not any(covers(dep, file) for dep in deps))
    idle = sorted(dep for dep in deps if not any(covers(dep, file) for file in needed))
    assert not missing
    assert not idle
    assert len(deps) == len(set(deps))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_versions_of_the_libraries(stage: str) -> None:
    assert LOCK in STAGES[stage]["deps"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_told_an_encoder_depends_on_its_files(stage: str) -> None:
    reads = "settings.encoder" in source(f"stages.{stage}")
    assert ("${encoder.files}" in STAGES[stage]["deps"]) == reads


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_settings_that_it_reads(stage: str) -> None:
    tree = ast.parse((REPO / "stages" / f"{stage}.py").read_text(encoding="utf-8"))
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
