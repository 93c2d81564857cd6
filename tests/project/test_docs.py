"""What the documents name is there: paths of the project, modules, classes and functions, commands and options."""

import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from cascadexml.cli import main

REPO = Path(__file__).resolve().parents[2]
TOP = r"\.ci|\.dvc|benchmarks|cascadexml|data|docs|flows|params|stages|tests|tools"
# A path of the project: not the tail of another path or address, up to a placeholder or a wildcard.
PATH = re.compile(rf"(?<![\w/.:~-])(?:{TOP})/[\w./-]*")
# A dotted name, but for what goes on with a placeholder, such as a bundle's kind.
NAME = re.compile(r"(?<![\w/.-])(?:cascadexml|stages|flows)(?:\.[A-Za-z_]\w*)+(?![\w/]|\.<)")
IMPORT = re.compile(r"^ *from (cascadexml[\w.]*) import ([\w, ]+)$", flags=re.M)
# A command line up to a pipe, a comment or the end of a code span.
COMMAND = re.compile(r"(?<![\w/.-])cascadexml ([a-z]+)((?: [^\n`|#]*)?)")
FILE_ENDINGS = ("md", "py", "yaml")


def git_files(*options: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z", *options], cwd=REPO, capture_output=True, check=True, text=True)
    return [name for name in listed.stdout.split("\0") if name]


FILES = set(git_files("--cached", "--others", "--exclude-standard"))
FOLDERS = {str(parent) for name in FILES for parent in Path(name).parents}
# CHANGELOG.md tells of what once was.
PAGES = sorted(name for name in FILES if name.endswith(".md") and name != "CHANGELOG.md")


STAGES = yaml.safe_load((REPO / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def written_by_runs() -> set[str]:
    """What stages, flows and downloads leave: DVC's outs and metrics, and what `make clean` removes besides."""
    written: set[str] = set()
    for stage in STAGES.values():
        for out in (*stage.get("outs", []), *stage.get("metrics", [])):
            written |= {out} if isinstance(out, str) else set(out)
    cleaned = re.findall(r"rm -rf (.*)", (REPO / "Makefile").read_text(encoding="utf-8"))
    kept = re.findall(r"^/(data/[\w/]+)$", (REPO / ".gitignore").read_text(encoding="utf-8"), flags=re.M)
    return written | {path for line in cleaned for path in line.split()} | set(kept)


WRITTEN = written_by_runs()
TAKEN_IN = ("data/base/artifact", "data/accepted")


def is_there(path: str) -> bool:
    path = path.rstrip("/.")
    made = any(path == out or path.startswith(f"{out}/") or out.startswith(f"{path}/") for out in WRITTEN)
    return path in FILES or path in FOLDERS or made or path.startswith(TAKEN_IN)


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one; modules outside the library are not imported."""
    parts = name.split(".")
    if parts[0] != "cascadexml":
        package = (REPO / parts[0] / "__init__.py").read_text(encoding="utf-8")
        return REPO.joinpath(*parts).with_suffix(".py").is_file() or f"\ndef {parts[1]}(" in package
    for cut in range(len(parts), 0, -1):
        path = REPO.joinpath(*parts[:cut])
        if path.is_dir() or path.with_suffix(".py").is_file():
            return has(importlib.import_module(".".join(parts[:cut])), parts[cut:])
    return False


def has(holder: object, names: list[str]) -> bool:
    """Whether `holder.a.b` is there; the last may be a dataclass's field or an annotated attribute."""
    for place, name in enumerate(names):
        if not hasattr(holder, name):
            return place == len(names) - 1 and name in getattr(holder, "__annotations__", {})
        holder = getattr(holder, name)
    return True


def events() -> set[str]:
    sources = (path.read_text(encoding="utf-8") for path in (REPO / "flows").glob("*.py"))
    return {event for source in sources for event in re.findall(r'"(cascadexml\.[a-z.]+)"', source)}


def mentioned(page: str, pattern: re.Pattern[str]) -> Iterator[str]:
    yield from sorted({found.group() for found in pattern.finditer((REPO / page).read_text(encoding="utf-8"))})


@pytest.mark.parametrize("page", PAGES)
def test_paths_of_the_project_are_there(page: str) -> None:
    assert [path for path in mentioned(page, PATH) if not is_there(path)] == []


@pytest.mark.parametrize("page", PAGES)
def test_modules_and_what_is_in_them_are_there(page: str) -> None:
    names = [name for name in mentioned(page, NAME) if not name.endswith(FILE_ENDINGS)]
    assert [name for name in names if name not in events() and not resolves(name)] == []


@pytest.mark.parametrize("page", PAGES)
def test_imports_in_snippets_are_there(page: str) -> None:
    for module, names in IMPORT.findall((REPO / page).read_text(encoding="utf-8")):
        for name in names.split(", "):
            assert resolves(f"{module}.{name}"), f"{module}.{name}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_are_there(page: str) -> None:
    for name, rest in COMMAND.findall((REPO / page).read_text(encoding="utf-8")):
        if name != "import":
            assert unknown_in([name, *rest.split()]) is None, f"cascadexml {name}{rest}"


def unknown_in(words: list[str]) -> str | None:
    """The first word of a command line that names no command or option."""
    command: click.Command = main
    while isinstance(command, click.Group) and words and re.fullmatch(r"[a-z]+", words[0]):
        if words[0] not in command.commands:
            return words[0]
        command, words = command.commands[words[0]], words[1:]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return next(
        (word for word in re.findall(r"(?<!\S)\[?(--[a-z0-9-]+)", " ".join(words)) if word not in options), None
    )


def test_the_table_of_stages_is_that_of_dvc() -> None:
    rows = re.findall(r"^\| (\w+) \| (.+) \| (.+) \| (.+) \|$", (REPO / "docs/pipeline.md").read_text(), flags=re.M)
    told = {name: [set(re.findall(r"`([^`]+)`", cell)) for cell in cells] for name, *cells in rows if name in STAGES}
    assert list(told) == list(STAGES)
    for name, (settings, _, writes) in told.items():
        stage = STAGES[name]
        if name == "package":
            settings |= {setting for setting in stage["params"] if "." not in setting}
        assert settings == set(stage["params"]), name
        outs = [out if isinstance(out, str) else next(iter(out)) for out in (*stage["outs"], *stage.get("metrics", []))]
        assert all(any(out == path or out.startswith(f"{path}/") for path in writes) for out in outs), name
        assert all(any(out == path or out.startswith(f"{path}/") for out in outs) for path in writes), name


def test_what_is_not_there_is_seen() -> None:
    assert not is_there("cascadexml/network.py")
    assert not is_there("data/reports/metric.json")
    assert is_there("data/reports/metrics.json")
    assert not resolves("cascadexml.labels.tree.LabelTree.roots")
    assert not resolves("cascadexml.tree")
    assert resolves("cascadexml.labels.tree.LabelTree.leaf_order")
    assert not resolves("stages.cluster_labels")
    assert unknown_in(["registry", "erase", "tib-subjects"]) == "erase"
    assert unknown_in(["predict", "PATH", "[--top", "K]"]) == "--top"
    assert unknown_in(["predict", "PATH", "[--top-k", "K]"]) is None
