"""Each command of the README, run as it stands there in a finished project.

A SET in the environment makes `make run` small. `make test` runs this test; tests/test_readme.py sees to its parts.
"""

import json
from pathlib import Path

import pytest

from cascadexml.artifact.artifact import open_artifact
from tests.integration.conftest import Project
from tests.project.test_readme import REPO, blocks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

README = REPO / "README.md"
MODEL = "own-data"
"""What `make run SOURCE=own-data` calls the finished project's model."""


OWN_DATA = "make run SOURCE="
BLOCKS = [block for block in blocks(README, "bash") if "make test" not in block]


@pytest.mark.parametrize("block", [block for block in BLOCKS if OWN_DATA not in block])
def test_each_shell_block_runs(block: str, finished: tuple[Project, str]) -> None:
    project, _ = finished
    # The README speaks of the sample's model; that of other data has another name.
    project.sh(block.replace("tib-subjects", MODEL))
    project.sh("git checkout --quiet . && dvc checkout --quiet --force")


def test_own_data_make_a_model_of_their_own(finished: tuple[Project, str]) -> None:
    (block,) = [block for block in BLOCKS if OWN_DATA in block]
    project, _ = finished
    asked = f'eval "$(make -s env)" && cascadexml registry history {MODEL} --json'
    before = project.sh(asked)
    # A source that is not SET's has no later batch: that is left out of SET, and a limit makes the run smaller still.
    project.sh(f'SET="${{SET/drift.batch=later.jsonl/download.limit=200}}"\n{block}')
    name = block.strip().rpartition("/")[2].partition(".")[0]
    published = json.loads((project.root / "data/reports/published.json").read_text(encoding="utf-8"))
    assert f"/{name}@" in published["uri"]
    assert (published["against"], published["promoted"]) == (None, True)
    assert project.sh(asked) == before
    artifact = project.root / "data/models/artifact"
    assert open_artifact(artifact).meta["name"] == name
    card = (artifact / "model_card.md").read_text(encoding="utf-8").partition("## Training parameters")[0]
    assert card.lower().count("not stated") == 4
    assert "TIB" not in card
    drift = json.loads((project.root / "data/reports/drift/verdict.json").read_text(encoding="utf-8"))
    assert drift["verdict"] is None
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
