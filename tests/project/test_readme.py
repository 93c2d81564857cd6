"""The README: its commands are known to exist, its links lead somewhere. Each command is run in tests/integration."""

import re
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PAGES = [*sorted(REPO.glob("*.md")), *sorted((REPO / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(encoding="utf-8"), flags=re.M))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page, "bash") for line in block.splitlines() if line.strip()]


def test_the_readme_opens_with_the_two_commands() -> None:
    assert commands(REPO / "README.md")[:2] == ["make run", "make test"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def code(page: Path) -> list[str]:
    """All that a page shows as code: fenced blocks, indented blocks, and what stands between backticks."""
    text = page.read_text(encoding="utf-8")
    fenced = r"^```[^\n]*\n(.*?)^```$"
    rest = re.sub(fenced, "", text, flags=re.S | re.M)
    return [
        *re.findall(fenced, text, flags=re.S | re.M),
        *re.findall(r"^ {4}(.*)$", rest, flags=re.M),
        *re.findall(r"`([^`]+)`", rest),
    ]


def make_targets(text: str) -> set[str]:
    """The targets that the commands `make …` in some code name, options and settings before them passed over."""
    return set(re.findall(r"(?:^|[\s(;&])make(?:\s+(?:-\S+|[A-Z]+=\S+))*[ \t]+([a-z][\w-]*)", text, flags=re.M))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_in_the_docs_exist(page: Path) -> None:
    assert set().union(*map(make_targets, code(page))) <= TARGETS


def test_targets_are_found_in_commands() -> None:
    assert make_targets("make run SET=a\n  make -s env | cat; make PYTHON=p setup && make no-such") == {
        "run", "env", "setup", "no-such"
    }  # fmt: skip
    assert make_targets("make\ncmake x") == set()


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_every_target_is_known_to_make_and_told_by_help(target: str) -> None:
    run = subprocess.run(["make", "-n", target], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    told = subprocess.run(["make", "help"], cwd=REPO, capture_output=True, text=True, timeout=60).stdout
    assert target == "help" or re.search(rf"\bmake {target}\b", told)


def test_make_test_runs_every_kind_of_check() -> None:
    run = subprocess.run(["make", "-n", "test"], cwd=REPO, capture_output=True, text=True, timeout=60)
    for check in (
        "ruff check",
        "ruff format --check",
        "mypy",
        "pytest -n 2 --dist loadfile --ignore tests/integration",
        "pytest tests/integration -m integration",
    ):
        assert check in run.stdout


def test_neither_half_leaves_a_test_out() -> None:
    """`make unit` passes one folder over, `make integration` asks for a mark: they are to mean the same tests."""
    for file in (REPO / "tests").rglob("test_*.py"):
        marked = re.search(r"^pytestmark = .*pytest\.mark\.integration", file.read_text(encoding="utf-8"), flags=re.M)
        assert bool(marked) == (file.parent == REPO / "tests" / "integration"), file
