"""The index of Data Docs, and what is taken out of the pages that Great Expectations renders."""

from pathlib import Path

import pytest

from cascadexml.quality import data_docs

HOSTILE = "<script>alert('1')</script>"
RENDERED = (
    '<html><head><script src="https://elsewhere.example/x.js"></script><link href="https://elsewhere.example/x.css">'
    '</head><body><a href="../../../../index.html">up</a><p>kept</p></body></html>'
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for file in ("validations/train/run/time/hash.html", "expectations/train.html"):
        (tmp_path / "site" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / file).write_text(RENDERED)
    return tmp_path / "site"


def test_what_records_bring_is_shown_as_text_and_never_run(site: Path, tmp_path: Path) -> None:
    failures = [
        {"column": HOSTILE, "severity": "critical", "rows": 3, "examples": ("a & b", HOSTILE)},
        {"column": "id", "severity": "warning", "rows": None, "examples": ()},
    ]
    data_docs.write(tmp_path / "docs", site, {"train": False}, failures)
    index = (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")
    assert "<script" not in index
    escaped = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;"
    assert f"<td>{escaped}</td><td>critical</td><td>3</td><td>a &amp; b, {escaped}</td>" in index
    assert "<td>id</td><td>warning</td><td></td><td></td>" in index
    assert '<a href="validations/train.html">results</a>' in index and "fa-times" in index


def test_pages_load_nothing_and_find_their_way_back(site: Path, tmp_path: Path) -> None:
    data_docs.write(tmp_path / "docs", site, {"train": True}, [])
    assert "Every expectation held." in (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")
    for kind in ("validations", "expectations"):
        page = (tmp_path / "docs" / kind / "train.html").read_text(encoding="utf-8")
        assert "elsewhere.example" not in page
        assert '<a href="../index.html">up</a><p>kept</p>' in page and "<style>" in page
