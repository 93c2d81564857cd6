"""README's `make run SOURCE=…`, in a project with a model of other data: a model of its own, by its own name."""

import json

import pytest

from cascadexml.artifact.artifact import open_artifact
from tests.integration.conftest import MODEL, Project
from tests.project.test_readme import REPO, blocks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

(BLOCK,) = (block for block in blocks(REPO / "README.md", "bash") if "make run SOURCE=" in block)


def test_own_data_make_a_model_of_their_own(served: Project) -> None:
    asked = f'eval "$(make -s env)" && cascadexml registry history {MODEL} --json'
    before = served.sh(asked)
    # A source that is not SET's has no later batch: that is left out of SET, and a limit makes the run smaller still.
    served.sh(f'SET="${{SET/drift.batch=later.jsonl/download.limit=200}}"\n{BLOCK}')
    name = BLOCK.strip().rpartition("/")[2].partition(".")[0]
    published = json.loads((served.root / "data/reports/published.json").read_text(encoding="utf-8"))
    assert f"/{name}@" in published["uri"]
    assert (published["against"], published["promoted"]) == (None, True)
    assert served.sh(asked) == before
    artifact = served.root / "data/models/artifact"
    assert open_artifact(artifact).meta["name"] == name
    card = (artifact / "model_card.md").read_text(encoding="utf-8").partition("## Training parameters")[0]
    assert card.lower().count("not stated") == 4
    assert "TIB" not in card
    drift = json.loads((served.root / "data/reports/drift/verdict.json").read_text(encoding="utf-8"))
    assert drift["verdict"] is None
