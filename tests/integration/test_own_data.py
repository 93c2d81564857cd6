"""README's `make run SOURCE=…`, in a project with a model of other data: a model of its own, by its own name."""

import json
from collections.abc import Callable, Iterator

import pytest

from cascadexml.artifact.artifact import open_artifact
from tests.integration.conftest import Project
from tests.project.test_readme import REPO, blocks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

(BLOCK,) = (block for block in blocks(REPO / "README.md", "bash") if "make run SOURCE=" in block)
OTHER = "own-data"
"""What the finished project's model is called, after its source."""


@pytest.fixture(scope="module")
def project(copy_finished: Callable[[], tuple[Project, str]]) -> Iterator[Project]:
    """The finished project with services of its own and its model published there."""
    project, _ = copy_finished()
    try:
        project.sh(f"make run SOURCE={OTHER}")
        yield project
    finally:
        project.sh("make down")


def test_own_data_make_a_model_of_their_own(project: Project) -> None:
    asked = f'eval "$(make -s env)" && cascadexml registry history {OTHER} --json'
    before = project.sh(asked)
    # A source that is not SET's has no later batch: that is left out of SET, and a limit makes the run smaller still.
    project.sh(f'SET="${{SET/drift.batch=later.jsonl/download.limit=200}}"\n{BLOCK}')
    name = BLOCK.strip().rpartition("/")[2].partition(".")[0]
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
