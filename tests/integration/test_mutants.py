"""The tool behind `make mutants` tells a noticed mistake from one that is not, by running tests."""

from pathlib import Path

import pytest

from tools import mutants
from tools.mutants import Mutant

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("new", "killed"),
    [("a - b", True), ("a * b", False), ("a +", False)],
    ids=["noticed", "not noticed", "no Python: its test does not run"],
)
def test_only_a_test_that_ran_and_failed_kills(tmp_path: Path, new: str, killed: bool) -> None:
    (tmp_path / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    (tmp_path / "test_sums.py").write_text("from sums import add\n\n\ndef test_add():\n    assert add(2, 2) == 4\n")
    mutant = Mutant("sums.py", "a + b", new, ("test_sums.py::test_add",))
    assert mutants.check_texts([mutant], tmp_path) == []
    assert mutants.is_killed(mutant, tmp_path)[0] is killed
    assert "a + b" in (tmp_path / "sums.py").read_text()
