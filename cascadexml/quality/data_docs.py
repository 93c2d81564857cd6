"""Data Docs as pages that open anywhere.

The pages that Great Expectations renders load a dozen scripts, styles and a counting image from other hosts, and their
index is drawn by one of those scripts: without a network it is empty, with one it tells a third party who looked. The
results themselves are plain HTML, so the copies keep these, with a style of our own and an index without scripts.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascadexml.bundle import beside
from cascadexml.pages import render

_REMOTE = re.compile(r"<script\b.*?</script>|<link\b[^>]*>|<footer\b.*?</footer>|<img\b[^>]*>", re.DOTALL)
_REMOTE_URL = re.compile(r"url\('https?://[^']*'\)")
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
        index = render("cascadexml.quality", "data_docs.html", statuses=statuses, failures=failures)
        (folder / "index.html").write_text(index, encoding="utf-8")


def _without_remote(page: str) -> str:
    page = _REMOTE_URL.sub("none", _REMOTE.sub("", page))
    page = re.sub(r'(<div class="float-left navbar-brand[^>]*>\s*<a [^>]*>)', r"\1All suites", page)
    return page.replace("</head>", f"{render('cascadexml.quality', 'style.html')}</head>", 1)
