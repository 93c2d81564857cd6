"""Each Python block of docs/python.md, run as it stands, one after the other, against a real store."""

from pathlib import Path
from typing import Any

import pytest

from cascadexml.artifact import open_artifact
from tests.conftest import S3Server
from tests.project.test_readme import REPO, blocks

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def test_the_blocks_of_the_page_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_server: S3Server
) -> None:
    (tmp_path / "data").symlink_to(REPO / "data")
    monkeypatch.chdir(tmp_path)
    for name, value in {**s3_server.environment, "CASCADEXML_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    s3_server.client().create_bucket(Bucket="cascadexml")
    page = blocks(REPO / "docs" / "python.md", "python")
    assert len(page) >= 6
    names: dict[str, Any] = {}
    for number, block in enumerate(page, 1):
        exec(compile(block, f"docs/python.md, block {number}", "exec"), names)  # noqa: S102

    classifier, report = names["classifier"], names["report"]
    assert names["P"].shape == (40, len(classifier.classes_))
    assert names["again"].predict(["Water quality"]) == classifier.predict(["Water quality"])
    assert 0 < report.figures["nDCG@5"] < 1
    assert names["registry"].aliases("my-subjects") == {"champion": names["published"].version}
    assert open_artifact(tmp_path / "my-model").meta["documents"] == {"train": 150, "dev": 40}
