"""What the flows' tasks do besides running commands, on files as DVC and the stages write them."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from cascadexml.artifact import Origin, open_artifact
from cascadexml.bundle import sha256_of
from cascadexml.data.corpus import Corpus
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import ConfigError
from cascadexml.registry import Version
from flows import tasks
from tests.support.tiny_artifacts import pack_again, pack_tiny

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


@pytest.fixture
def packed(project: Path, tmp_path: Path, small_corpus: Corpus) -> tuple[tasks.Champion, Callable[[], None]]:
    """A champion that lies in the project as packed too, and what puts a model of other labels and data there."""
    artifact = pack_tiny(tmp_path / "tiny", small_corpus)
    fingerprint = sha256_of(artifact / "manifest.json")
    name = f"v-{fingerprint[:12]}"
    version = Version("tiny", name, f"s3://b/p/tiny/versions/{name}", datetime.now(UTC), fingerprint, {}, {})
    target = project / tasks.ARTIFACT
    shutil.copytree(artifact, target)

    def other() -> None:
        vocabulary = small_corpus.vocabulary
        renamed = Vocabulary(tuple(f"own:{i}" for i in vocabulary.ids), vocabulary.names, vocabulary.L)
        origin = Origin(name="tiny", documents={"train": 300}, data_fingerprint="f" * 64)
        pack_again(target, tmp_path / "tiny", small_corpus, vocabulary=renamed, origin=origin)

    return tasks.Champion(version, artifact), other


class PublishedError(Exception):
    """Where a flow would write into the registry."""


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    def publish(folder: Path) -> None:
        raise PublishedError

    monkeypatch.setattr(tasks, "publish", publish)


@pytest.mark.parametrize("promote", ["if_better", "always", "never"])
def test_a_model_of_other_data_is_refused_before_it_is_published(
    project: Path, packed: tuple[tasks.Champion, Callable[[], None]], published: None, promote: tasks.Promote
) -> None:
    champion, other = packed
    other()
    with pytest.raises(ConfigError, match="labels in common") as caught:
        tasks.decide(project, champion, promote)
    assert champion.version.version.removeprefix("v-") in str(caught.value)


def test_a_model_that_follows_the_champion_or_nobody_is_published(
    project: Path, packed: tuple[tasks.Champion, Callable[[], None]], published: None
) -> None:
    champion, other = packed
    with pytest.raises(PublishedError):
        tasks.decide(project, champion, "if_better")
    other()
    assert open_artifact(project / tasks.ARTIFACT).meta["data_fingerprint"] == "f" * 64
    with pytest.raises(PublishedError):
        tasks.decide(project, None, "if_better")
