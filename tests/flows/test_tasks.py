"""What the flows' tasks do besides running commands, on files as DVC and the stages write them."""

from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from flows import tasks

WHOLE = "schema: '2.0'\nstages:\n  download:\n    cmd: python -m stages.download\n    deps: []\n"
LATER = WHOLE + "  validate:\n    cmd: python -m stages.validate\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    return tmp_path


def mend(project: Path, found: str) -> str | None:
    lock = project / "dvc.lock"
    lock.write_text(found, encoding="utf-8")
    with disable_run_logger():
        tasks.mend_lock(project)
    return lock.read_text(encoding="utf-8") if lock.exists() else None


@pytest.mark.parametrize("torn", ["", "schema: '2.0'\n", "schema: '2.0'\nstages:\n  download:\n    cmd: 'pyth", "sche"])
def test_a_torn_lock_becomes_the_last_whole_one(project: Path, torn: str) -> None:
    assert mend(project, WHOLE) == WHOLE
    assert mend(project, LATER) == LATER
    assert mend(project, torn) == LATER


def test_a_torn_lock_that_was_never_whole_goes(project: Path) -> None:
    assert mend(project, "") is None


def test_no_lock_is_no_torn_lock(project: Path) -> None:
    with disable_run_logger():
        tasks.mend_lock(project)
    assert not (project / "dvc.lock").exists()


def test_reports_are_links_only_where_they_are_served(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = project / "data" / "reports" / "drift" / "report.html"
    monkeypatch.delenv("CASCADEXML_REPORTS_URL", raising=False)
    assert str(page) in tasks.link(page, "Drift report")
    monkeypatch.setenv("CASCADEXML_REPORTS_URL", "http://127.0.0.1:4300/")
    assert tasks.link(page, "Drift report") == "[Drift report](http://127.0.0.1:4300/drift/report.html)"
