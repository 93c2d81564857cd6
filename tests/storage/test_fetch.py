import hashlib
import http.server
import io
import logging
import os
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cascadexml.errors import DataError
from cascadexml.storage.addresses import public_name
from cascadexml.storage.archives import unpack
from cascadexml.storage.fetch import fetch

CONTENT = os.urandom(3_000_000)


class Server(http.server.ThreadingHTTPServer):
    """A real HTTP server of one folder: answers ranges, breaks connections and fails as it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.break_after: int | None = None
        self.breaks_left = 0
        self.fail_status = 503
        self.failures_left = 0
        self.ranges = True
        self.validators = True
        self.seen: list[tuple[str, int]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range", "")
        if server.failures_left:
            server.failures_left -= 1
            return self._empty(server.fail_status, wanted)
        file = server.folder / self.path.split("?")[0].lstrip("/")
        if not file.is_file():
            return self._empty(404, wanted)
        content = file.read_bytes()
        etag = f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'
        if self.headers.get("If-None-Match") == etag:
            return self._empty(304, wanted)
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                return self._empty(416, wanted)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        server.seen.append((wanted, 206 if start else 200))
        self.send_header("Content-Length", str(len(content) - start))
        if server.validators:
            self.send_header("ETag", etag)
        self.end_headers()
        body = content[start:]
        if server.breaks_left and server.break_after is not None:
            server.breaks_left -= 1
            body = body[: server.break_after]
        self.wfile.write(body)
        self.close_connection = True
        return None

    def _empty(self, status: int, wanted: str) -> None:
        self.server.seen.append((wanted, status))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "train.jsonl.xz").write_bytes(CONTENT)
    with Server(folder) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch):
    monkeypatch.setattr("cascadexml.storage.retry.BACKOFF_SECONDS", 0.001)


def test_a_local_file_or_folder_is_given_back(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    assert fetch(str(tmp_path), tmp_path / "out") == tmp_path
    assert fetch(str(tmp_path / "train.jsonl"), tmp_path / "out") == tmp_path / "train.jsonl"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere/at/all", "does not exist"),
        ("ftp://example.org/x", "scheme 'ftp'"),
        ("s3:///key", "names no bucket"),
        ("http://127.0.0.1:9/x", "cannot be reached"),
    ],
)
def test_sources_that_are_not_there_are_refused(tmp_path, source, message):
    with pytest.raises(DataError, match=message):
        fetch(source, tmp_path)


def test_http_with_progress_and_digest(server, tmp_path):
    shown = []
    digest = hashlib.sha256(CONTENT).hexdigest()
    path = fetch(f"{server.url}/train.jsonl.xz?token=x", tmp_path / "out", digest, lambda *a: shown.append(a[:3]))
    assert path.name == "train.jsonl.xz"
    assert path.read_bytes() == CONTENT
    done = [d for _, d, _ in shown]
    assert done == sorted(done)
    assert shown[-1] == ("fetching train.jsonl.xz", len(CONTENT), len(CONTENT))


def test_http_resumes_where_the_connection_broke(server, tmp_path):
    server.break_after, server.breaks_left = 1_200_000, 2
    assert fetch(f"{server.url}/train.jsonl.xz", tmp_path / "out").read_bytes() == CONTENT
    assert [status for _, status in server.seen] == [200, 206, 206]
    starts = [int(r.removeprefix("bytes=").rstrip("-")) for r, _ in server.seen[1:]]
    assert 0 < starts[0] <= 1_200_000 < starts[1] <= 2_400_000


def test_http_resumes_in_a_later_run(server, tmp_path):
    server.break_after, server.breaks_left = 100_000, 100
    server.ranges = False
    with pytest.raises(DataError, match="broke off"):
        fetch(f"{server.url}/train.jsonl.xz", tmp_path / "out")
    server.breaks_left, server.ranges = 0, True
    server.seen.clear()
    assert fetch(f"{server.url}/train.jsonl.xz", tmp_path / "out").read_bytes() == CONTENT
    assert [status for _, status in server.seen] == [206]


def test_http_starts_over_when_the_file_has_changed(server, tmp_path):
    server.break_after, server.breaks_left, server.ranges = 100_000, 100, False
    with pytest.raises(DataError, match="broke off"):
        fetch(f"{server.url}/train.jsonl.xz", tmp_path / "out")
    server.breaks_left, server.ranges = 0, True
    (server.folder / "train.jsonl.xz").write_bytes(CONTENT[::-1])
    assert fetch(f"{server.url}/train.jsonl.xz", tmp_path / "out").read_bytes() == CONTENT[::-1]


def test_http_without_validators_starts_over(server, tmp_path):
    server.validators = False
    server.break_after, server.breaks_left = 1_000_000, 1
    assert fetch(f"{server.url}/train.jsonl.xz", tmp_path / "out").read_bytes() == CONTENT
    assert [status for _, status in server.seen] == [200, 200]


def test_http_does_not_fetch_again_what_has_not_changed(server, tmp_path):
    url = f"{server.url}/train.jsonl.xz"
    fetch(url, tmp_path / "out")
    assert fetch(url, tmp_path / "out").read_bytes() == CONTENT
    assert [status for _, status in server.seen] == [200, 304]
    (server.folder / "train.jsonl.xz").write_bytes(b"new")
    assert fetch(url, tmp_path / "out").read_bytes() == b"new"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_http_tries_again_when_the_server_is_busy(server, tmp_path, status):
    server.failures_left, server.fail_status = 3, status
    assert fetch(f"{server.url}/train.jsonl.xz", tmp_path / "out").read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "requests"), [(403, 1), (503, 6)])
def test_http_gives_up_in_the_end(server, tmp_path, status, requests):
    server.failures_left, server.fail_status = 100, status
    with pytest.raises(DataError, match=r"train\.jsonl\.xz (answered 403|cannot be reached)") as caught:
        fetch(f"{server.url}/train.jsonl.xz?signature=secret", tmp_path / "out")
    assert "secret" not in str(caught.value)
    assert len(server.seen) == requests


def test_a_wrong_digest_is_refused_and_the_download_not_kept(server, tmp_path):
    flipped = bytearray(CONTENT)
    flipped[len(flipped) // 2] ^= 1
    (server.folder / "train.jsonl.xz").write_bytes(flipped)
    expected, found = hashlib.sha256(CONTENT).hexdigest(), hashlib.sha256(flipped).hexdigest()
    url = f"{server.url}/train.jsonl.xz"
    with pytest.raises(DataError, match=f"{found}, expected {expected}"):
        fetch(url, tmp_path / "out", expected)
    (server.folder / "train.jsonl.xz").write_bytes(CONTENT)
    assert fetch(url, tmp_path / "out", expected.upper()).read_bytes() == CONTENT


def test_a_wrong_digest_leaves_a_local_file_alone(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text("{}")
    with pytest.raises(DataError, match="expected 00"):
        fetch(str(file), tmp_path / "out", "00")
    assert file.exists()
    with pytest.raises(DataError, match="is a folder"):
        fetch(str(tmp_path), tmp_path / "out", "00")


def test_public_name_hides_secrets():
    assert public_name("https://me:secret@host:1/a/b.zip?sig=secret") == "https://host:1/a/b.zip"
    assert public_name("/a/b?c") == "/a/b?c"
    assert public_name("C:/a/b?c") == "C:/a/b?c"
    assert public_name("s3://bucket/model@champion") == "s3://bucket/model@champion"


ODD_ADDRESSES = (
    "{}://me:sec/ret@host/a", "{}://me:sec?ret@host/a", "{}://me:7sec#ret@host/a", "{}://me:7?ret@host/a",
    "{}://[sec", "{}://me:sec@[::1/ret", "{}://me:sec@host:99999/a", "{}://me:sec@host:ret/a",
    "{}://ex\u2100mple:sec@ret", "{}://host/a?sig=sec&x=ret", "{}://host/a#sec?ret", "{}://me:sec@ret@host/",
)  # fmt: skip


@pytest.mark.parametrize("address", ODD_ADDRESSES)
@pytest.mark.parametrize("scheme", ["https", "s3", "ftp"])
def test_odd_addresses_hide_secrets_too(tmp_path, address, scheme, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    source = address.format(scheme)
    assert "sec" not in public_name(source) and "ret" not in public_name(source)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    if "://host/" in source and scheme != "ftp":
        source = source.replace("host", "127.0.0.1:9")
    with pytest.raises(DataError) as refusal:
        fetch(source, tmp_path)
    said = str(refusal.value)
    assert said.startswith(f"{scheme}://") and "sec" not in said and "ret" not in said
    assert "Traceback" not in caplog.text


def test_a_signed_query_stays_out_of_the_log(server, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    server.failures_left, server.fail_status = 1, 503
    fetch(f"{server.url}/train.jsonl.xz?signature=secret", tmp_path / "out")
    with pytest.raises(DataError):
        fetch("http://127.0.0.1:9/x?signature=secret", tmp_path)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("/x?…" in message for message in warned)
    assert "secret" not in caplog.text


def tar_of(path: Path, members: list[tuple[str, bytes | None, dict]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content, attributes in members:
            info = tarfile.TarInfo(name)
            info.size = len(content or b"")
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content or b""))
    return path


def zip_of(path: Path, members: list[tuple[str, bytes, int]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


PLAIN = stat.S_IFREG | 0o644


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.tar.bz2"])
def test_archives_are_unpacked(tmp_path, name):
    archive = tmp_path / name
    if name.endswith(".zip"):
        zip_of(archive, [("data/train.jsonl", b"{}", PLAIN), ("__MACOSX/x", b"", PLAIN), ("data/._x", b"", PLAIN)])
    else:
        mode = {"tar": "w", "gz": "w:gz", "tgz": "w:gz", "xz": "w:xz", "bz2": "w:bz2"}[name.rpartition(".")[2]]
        tar_of(archive, [("data", None, {"type": tarfile.DIRTYPE}), ("data/train.jsonl", b"{}", {})], mode)
    folder = fetch(str(archive), tmp_path / "out")
    assert [f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()] == ["data/train.jsonl"]


def test_an_archive_from_a_server_is_unpacked_and_replaced(server, tmp_path):
    url = f"{server.url}/data.zip"
    for name in ("train.jsonl", "train.csv"):
        zip_of(server.folder / "data.zip", [(name, name.encode(), PLAIN)])
        folder = fetch(url, tmp_path / "out")
        assert [f.name for f in folder.iterdir()] == [name]


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/etc/out", "a\\..\\..\\out", ".."])
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_paths_that_lead_outside_are_refused(tmp_path, name, kind):
    archive = tmp_path / f"in.{kind}"
    if kind == "zip":
        zip_of(archive, [("good", b"x", PLAIN), (name, b"x", PLAIN)])
    else:
        tar_of(archive, [("good", b"x", {}), (name, b"x", {})])
    with pytest.raises(DataError, match="may lead outside"):
        unpack(archive, tmp_path / "a" / "b")
    assert {f.name for f in tmp_path.rglob("*")} == {archive.name, "a"}


@pytest.mark.parametrize(
    "attributes",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "../../x"},
        {"type": tarfile.CHRTYPE},
        {"type": tarfile.FIFOTYPE},
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, attributes):
    with pytest.raises(DataError, match="a link or device"):
        unpack(tar_of(tmp_path / "in.tgz", [("train.jsonl", None, attributes)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_links_in_a_zip_are_refused(tmp_path):
    with pytest.raises(DataError, match="a link or device"):
        unpack(zip_of(tmp_path / "in.zip", [("train.jsonl", b"/etc/passwd", stat.S_IFLNK | 0o777)]), tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_is_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("cascadexml.storage.archives.MIN_UNPACKED_LIMIT", 1_000_000)
    zeros = bytes(20_000_000)
    archive = tmp_path / f"in.{kind}"
    if kind == "zip":
        zip_of(archive, [("train.jsonl", zeros, PLAIN)])
    else:
        tar_of(archive, [("train.jsonl", zeros, {})])
    with pytest.raises(DataError, match="unpacks to more than"):
        unpack(archive, tmp_path / "out")
    assert [f.name for f in tmp_path.iterdir()] == [archive.name]


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "no archive"])
def test_damaged_archives_are_refused_and_what_was_there_stays(tmp_path, kind, damage):
    archive = tmp_path / f"in.{kind}"
    content = os.urandom(50_000)
    if kind == "zip":
        zip_of(archive, [("train.jsonl", content, PLAIN)])
    else:
        tar_of(archive, [("train.jsonl", content, {})], f"w:{kind[4:]}")
    data = bytearray(archive.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
    else:
        data = bytearray(b"text")
    archive.write_bytes(data)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "out")
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["old"]


def test_the_same_path_twice_is_refused(tmp_path):
    archive = tar_of(tmp_path / "in.tgz", [("train.jsonl", b"a", {}), ("./train.jsonl", b"b", {})])
    with pytest.raises(DataError, match=r"train\.jsonl twice"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize(
    "source", ["http:/host/x?sig=secret", "https:u:secret@host/x", "s3:/b/k?secret", "//host/x?secret"]
)
def test_an_address_that_lacks_a_slash_shows_no_secret(source, tmp_path):
    assert "secret" not in public_name(source)
    with pytest.raises(DataError, match="does not exist") as refused:
        fetch(source, tmp_path)
    assert "secret" not in str(refused.value)


def test_a_file_that_is_called_like_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "records:new.csv").write_text("x")
    assert fetch("records:new.csv", tmp_path / "folder").read_text() == "x"
    assert public_name("records:new.csv") == "records:new.csv"
