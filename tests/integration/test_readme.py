"""Each command of the README, run as it stands there in a finished project.

A SET in the environment makes `make run` small. `make test` runs this test; tests/test_readme.py sees to its parts.
"""

from pathlib import Path

import pytest

from tests.integration.conftest import MODEL, Project
from tests.project.test_readme import REPO, blocks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

README = REPO / "README.md"


ELSEWHERE = ("make test", "make run SOURCE=")
"""The first is what runs these tests; test_own_data.py runs the second."""
BLOCKS = [block for block in blocks(README, "bash") if not any(command in block for command in ELSEWHERE)]


@pytest.mark.parametrize("block", BLOCKS)
def test_each_shell_block_runs(block: str, finished: tuple[Project, str]) -> None:
    project, _ = finished
    # The README speaks of the sample's model; that of other data has another name.
    project.sh(block.replace("tib-subjects", MODEL))
    project.sh("git checkout --quiet . && dvc checkout --quiet --force")


def test_the_first_block_is_what_continuous_integration_runs() -> None:
    first = blocks(README, "bash")[0].splitlines()
    script = (REPO / ".ci/run").read_text(encoding="utf-8").splitlines()
    for command in first:
        assert any(line.split(" SET=")[0] == command for line in script)


def test_the_python_block_runs_and_shows_five_labels(finished: tuple[Project, str]) -> None:
    (code,) = blocks(README, "python")
    project, _ = finished
    script = Path("readme_snippet.py")
    (project.root / script).write_text(code, encoding="utf-8")
    try:
        assert len(project.sh(f"python {script} 2>/dev/null").splitlines()) == 5
    finally:
        (project.root / script).unlink()
