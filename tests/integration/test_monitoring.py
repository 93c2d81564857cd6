"""The monitoring flow where there is nothing to compare: the rest is tested with a real server."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from prefect.logging import disable_run_logger

from flows import monitoring

pytestmark = pytest.mark.integration

REPO = Path(__file__).resolve().parents[2]


def test_with_no_batch_named_and_none_there_the_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stages").symlink_to(REPO / "stages")
    (tmp_path / "data" / "incoming").mkdir(parents=True)
    (tmp_path / "data" / "incoming" / "README.md").touch()
    text = (REPO / "params.yaml").read_text(encoding="utf-8")
    batch = "data/sample/incoming/2022-2025.jsonl.xz"
    assert batch in text
    (tmp_path / "params.yaml").write_text(text.replace(batch, "data/incoming"), encoding="utf-8")
    champion = SimpleNamespace(path=tmp_path / "nowhere")
    monkeypatch.setattr(monitoring.tasks, "pull_champion", lambda folder: champion)
    monkeypatch.setattr(monitoring, "compare", monitoring.compare.fn)
    with disable_run_logger():
        state = monitoring.monitoring.fn(project=str(tmp_path))
    assert (state.name, state.is_completed()) == ("NoBatch", True)
    assert "data/incoming holds no records" in state.message
