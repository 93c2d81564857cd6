"""The page of a verdict, without Evidently's part."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cascadexml.monitoring.report import write_report
from cascadexml.monitoring.verdict import BatchSummary, Check, MonitoredModel, UnseenLabels, Verdict
from tests.support.params import SETTINGS

HOSTILE = "</table><script>alert('1')</script>"


class Page(HTMLParser):
    """The tags, the list items and the cells of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = {"li": [], "td": [], "h1": [], "p": []}  # type: dict[str, list[str]]
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag in self.text:
            self.text[tag].append("")
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text[self.open[-1]][-1] += data


@pytest.fixture
def page(tmp_path: Path) -> Page:
    checks = [
        Check(HOSTILE, "metadata", "distance", 0.123456, 0.1, 1e-7, True),
        Check("words", "text", "distance", 0.05, 0.15, None, False, 61.25, 58.0),
    ]
    verdict = Verdict(
        "drift",
        [f"{HOSTILE}: too far", "second"],
        BatchSummary(HOSTILE, f"s3://bucket/{HOSTILE}", 12, 10, 2, 9),
        MonitoredModel(HOSTILE, "0" * 64),
        checks,
        None,
        UnseenLabels(0.0, 0),
    )
    write_report(tmp_path, verdict, None, None, SETTINGS.drift)
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == verdict.to_json()
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http://" not in html and "https://" not in html
    return Page(html)


def test_what_a_batch_brings_is_shown_as_text_and_never_run(page: Page) -> None:
    assert not page.tags & {"script", "link", "img"}
    assert page.text["h1"] == [f"Batch {HOSTILE}: drift"]
    assert page.text["li"] == [f"{HOSTILE}: too far", "second"]
    assert page.text["p"][0].startswith(f"12 records from s3://bucket/{HOSTILE}: 10 accepted, 2 refused, 9 with labels")


def test_every_check_is_a_row_with_its_figures(page: Page) -> None:
    cells = page.text["td"]
    assert cells[:9] == [HOSTILE, "metadata", "distance", "0.1235", "0.1", "1e-07", "", "", "yes"]
    assert cells[9:] == ["words", "text", "distance", "0.05", "0.15", "", "61.25", "58", "no"]
