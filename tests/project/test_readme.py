"""The README: its commands are known to exist, its links lead somewhere. Each command is run in tests/integration."""

import re
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", REPO / "CHANGELOG.md", *sorted((REPO / "docs").glob("*.md"))]
TARGETS = {"run", "up", "down", "env", "test", "lint", "unit", "integration", "setup", "lock", "clean", "help"}


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_in_the_docs_exist(page: Path) -> None:
    for target in set(re.findall(r"(?:^|[`\s])make ([a-z]+)(?=[`\s])", page.read_text(encoding="utf-8"))):
        if target in TARGETS:
            run = subprocess.run(["make", "-n", target], cwd=REPO, capture_output=True, text=True, timeout=60)
            assert run.returncode == 0, run.stderr


def test_make_test_runs_every_kind_of_check() -> None:
    run = subprocess.run(["make", "-n", "test"], cwd=REPO, capture_output=True, text=True, timeout=60)
    for check in (
        "ruff check",
        "ruff format --check",
        "mypy",
        "pytest -n 2 -m 'not integration'",
        "pytest -m integration",
    ):
        assert check in run.stdout
