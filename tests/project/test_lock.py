"""requirements.lock: exact, universal, without hosts, and in step with pyproject.toml."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parents[2]
LINES = (REPO / "requirements.lock").read_text(encoding="utf-8").splitlines()


def test_every_line_is_one_exact_version_and_names_no_host() -> None:
    for line in LINES:
        assert re.fullmatch(r"[A-Za-z0-9_.\[\],-]+==[A-Za-z0-9_.!-]+( ; .+)?", line), line
    assert "torch==2.13.0" in LINES


def test_every_declared_dependency_is_locked_at_a_version_it_allows() -> None:
    locked: dict[str, list[str]] = {}
    for line in LINES:
        requirement = Requirement(line)
        locked.setdefault(canonicalize_name(requirement.name), []).extend(s.version for s in requirement.specifier)
    project = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for text in (*project["dependencies"], *extras["pipeline"], *extras["dev"]):
        declared = Requirement(text)
        versions = locked.get(canonicalize_name(declared.name), [])
        assert versions, f"{declared.name} is not in requirements.lock: run make lock"
        assert all(declared.specifier.contains(version) for version in versions), text
