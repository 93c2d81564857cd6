"""The rules of the house that no linter holds: how long a class, a function or a stage may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
LIMITS = {ast.ClassDef: 250, ast.FunctionDef: 60, ast.AsyncFunctionDef: 60}
STAGE = 100


def too_long(file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, tuple(LIMITS)):
            lines = node.end_lineno - node.lineno + 1
            if lines > LIMITS[type(node)]:
                yield f"{file.relative_to(REPO)}: {node.name} has {lines} lines"


def test_no_class_and_no_function_is_longer_than_the_house_allows() -> None:
    files = [file for folder in ("cascadexml", "stages", "flows") for file in (REPO / folder).rglob("*.py")]
    assert len(files) > 100
    assert [line for file in files for line in too_long(file)] == []


def test_a_stage_is_thin() -> None:
    assert {file.name for file in (REPO / "stages").glob("*.py") if len(file.read_text().splitlines()) > STAGE} == set()
