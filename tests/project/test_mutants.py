"""The mutants of tools/mutants.py are up to date, and the tool names those that are not.

`make mutants` tries them; that takes minutes.
"""

from pathlib import Path

import pytest

from tools import mutants
from tools.mutants import MUTANTS, Mutant


def test_there_are_many_and_each_is_another() -> None:
    assert len(MUTANTS) >= 30
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)
    assert all(mutant.old != mutant.new and mutant.tests for mutant in MUTANTS)


def test_each_text_stands_once_and_each_test_is_there() -> None:
    assert mutants.check_texts(MUTANTS) == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project of one function and one test."""
    (tmp_path / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    (tmp_path / "test_sums.py").write_text("from sums import add\n\n\ndef test_add():\n    assert add(2, 2) == 4\n")
    return tmp_path


@pytest.mark.parametrize(
    ("mutant", "said"),
    [
        (Mutant("sums.py", "a", "b", ("test_sums.py::test_add",)), "stands 3 times"),
        (Mutant("sums.py", "c + d", "d", ("test_sums.py::test_add",)), "stands 0 times"),
        (Mutant("gone.py", "a + b", "a", ("test_sums.py::test_add",)), "stands 0 times"),
        (Mutant("sums.py", "a + b", "a", ("test_sums.py::test_gone",)), "no test test_sums.py::test_gone"),
    ],
)
def test_what_is_out_of_date_is_named(tree: Path, mutant: Mutant, said: str) -> None:
    (wrong,) = mutants.check_texts([mutant], tree)
    assert said in wrong
