"""Data Docs as pages that open anywhere.

The pages that Great Expectations renders load a dozen scripts, styles and a counting image from other hosts, and their
index is drawn by one of those scripts: without a network it is empty, with one it tells a third party who looked. The
results themselves are plain HTML, so the copies keep these, with a style of our own and an index without scripts.
"""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascadexml.bundle import beside

_REMOTE = re.compile(r"<script\b.*?</script>|<link\b[^>]*>|<footer\b.*?</footer>|<img\b[^>]*>", re.DOTALL)
_REMOTE_URL = re.compile(r"url\('https?://[^']*'\)")
_STYLE = """<style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 70em; margin: 1em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: .5em 0; }
td, th { border: 1px solid #9995; padding: .25em .6em; text-align: left; vertical-align: top; }
.navbar, .sticky { position: static !important; height: auto !important; }
.sticky, .breadcrumb-item.active, .card.collapse, [data-toggle=collapse] { display: none; }
.fa-check-circle::before { content: "\\2713"; color: #080; font-style: normal; }
.fa-times::before { content: "\\2717"; color: #b00; font-style: normal; }
.fa-exclamation-triangle::before { content: "!"; color: #b60; font-style: normal; }
.text-danger, .critical { color: #b00; }
.badge { background: #9993; padding: 0 .3em; border-radius: .2em; }
</style>
"""
_UP = "../../../../"


def write(target: Path, site: Path, statuses: Mapping[str, bool], failures: Sequence[Mapping[str, Any]]) -> None:
    """Copy the site that Great Expectations rendered to `target`, which is replaced.

    Args:
        target: `index.html` and the folders `validations` and `expectations`, one page a suite in each.
        site: Great Expectations' `local_site`.
        statuses: suite → whether every expectation held.
        failures: one mapping of column to value an expectation that did not.
    """
    with beside(target) as folder:
        for kind in ("validations", "expectations"):
            (folder / kind).mkdir(parents=True)
            for suite in statuses:
                page = next((site / kind).glob(f"{suite}/**/*.html" if kind == "validations" else f"{suite}.html"))
                # The run's time is part of the rendered path; ours is the same in every run.
                text = _without_remote(page.read_text(encoding="utf-8")).replace(_UP, "../")
                (folder / kind / f"{suite}.html").write_text(text, encoding="utf-8")
        (folder / "index.html").write_text(_index(statuses, failures), encoding="utf-8")


def _without_remote(page: str) -> str:
    page = _REMOTE_URL.sub("none", _REMOTE.sub("", page))
    page = re.sub(r'(<div class="float-left navbar-brand[^>]*>\s*<a [^>]*>)', r"\1All suites", page)
    return page.replace("</head>", f"{_STYLE}</head>", 1)


def _index(statuses: Mapping[str, bool], failures: Sequence[Mapping[str, Any]]) -> str:
    suites = "".join(
        f'<tr><td>{html.escape(suite)}</td><td><i class="{"fa-check-circle" if held else "fa-times"}"></i></td>'
        f'<td><a href="validations/{suite}.html">results</a></td>'
        f'<td><a href="expectations/{suite}.html">expectations</a></td></tr>\n'
        for suite, held in statuses.items()
    )
    rows = "".join(
        f'<tr class="{failure["severity"]}">'
        + "".join(f"<td>{html.escape(_cell(value))}</td>" for value in failure.values())
        + "</tr>\n"
        for failure in failures
    )
    header = "".join(f"<th>{name}</th>" for name in failures[0]) if failures else ""
    failed = f"<table><tr>{header}</tr>\n{rows}</table>" if failures else "<p>Every expectation held.</p>"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="UTF-8"><title>Data Docs</title>\n'
        f"{_STYLE}</head><body>\n<h1>Data Docs</h1>\n<table>\n{suites}</table>\n"
        f"<h2>Expectations that do not hold</h2>\n{failed}\n</body></html>\n"
    )


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
