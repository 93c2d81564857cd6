"""The report server gives the pages of its folder, not what links lead to elsewhere, and to nobody from elsewhere."""

import http.client
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.local.reports import serve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    reports, cache = tmp_path / "reports", tmp_path / "cache"
    for made in (reports / "pages", cache):
        made.mkdir(parents=True)
    (reports / "pages" / "report.html").write_text("a report")
    (tmp_path / "secret").write_text("a secret")
    (cache / "object").write_text("a page in the cache")
    (reports / "out").symlink_to(tmp_path / "secret")
    (reports / "up").symlink_to(tmp_path)
    (reports / "cached.html").symlink_to(cache / "object")
    (reports / "same.html").symlink_to("pages/report.html")
    os.mkfifo(reports / "pipe")
    return reports


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    with serve(folder, 0, (folder.parent / "cache",)) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def ask(port: int, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host or f"localhost:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/pages/report.html", "a report"),
        ("/same.html", "a report"),
        ("/cached.html", "a page in the cache"),
        ("/pages/", "report.html"),
    ],
)
def test_pages_of_the_folder_are_given(port: int, path: str, content: str) -> None:
    status, found = ask(port, path)
    assert status == 200
    assert content in found


@pytest.mark.parametrize("path", ["/out", "/up/secret", "/up/", "/../secret", "/%2e%2e/secret", "/pipe", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_lies_elsewhere_is_not(port: int, path: str, method: str) -> None:
    status, found = ask(port, path, method=method)
    assert status == 404
    assert "a secret" not in found


@pytest.mark.parametrize(("host", "status"), [("evil.example", 403), ("127.0.0.1", 200), ("localhost", 200)])
def test_only_who_names_this_machine_is_answered(port: int, host: str, status: int) -> None:
    assert ask(port, "/pages/report.html", host)[0] == status
