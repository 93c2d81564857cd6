"""A store in memory that speaks as much of S3 as one object needs, and keeps its promises or breaks one on purpose.

It shows that what looks for a broken promise finds it, which no real store shows at will.
"""

import base64
import hashlib
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

Breaks = Literal["nothing", "races", "conditions", "checksums", "listings", "reads"]
"""Which promise: `races`: writers who come together pass a condition together; `listings`: lag behind a write."""
MODIFIED = "Tue, 01 Dec 2026 00:00:00 GMT"


@contextmanager
def memory_s3(breaks: Breaks = "nothing") -> Iterator[str]:
    """Give the URL of such a store on a free port of loopback; any bucket is there."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.breaks = breaks
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    breaks: Breaks

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.listed: dict[str, int] = {}
        self.lock = threading.Lock()
        self.writes = itertools.count()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *arguments: object) -> None:
        pass

    def _key(self) -> str:
        return urlsplit(self.path).path.lstrip("/").partition("/")[2]

    def _refused(self) -> tuple[int, str] | None:
        """The status and code that the request's conditions are refused with."""
        if self.server.breaks == "conditions":
            return None
        there = self.server.objects.get(self._key())
        if self.headers.get("If-None-Match") == "*" and there:
            return 412, "PreconditionFailed"
        if (wanted := self.headers.get("If-Match")) is not None:
            if there is None:
                return 404, "NoSuchKey"
            if there[1] != wanted:
                return 412, "PreconditionFailed"
        return None

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        sent = self.headers.get("x-amz-checksum-sha256")
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        if sent is not None and sent != digest and self.server.breaks != "checksums":
            return self._error(400, "BadDigest")
        racy = self.server.breaks == "races"
        with nullcontext() if racy else self.server.lock:
            if refused := self._refused():
                return self._error(*refused)
            # So long that whoever begins together is here together, on a busy machine too.
            if racy and ("If-None-Match" in self.headers or "If-Match" in self.headers):
                time.sleep(0.2)
            etag = f'"{next(self.server.writes):032x}"'
            self.server.objects[self._key()] = body, etag
            if self.server.breaks != "listings":
                self.server.listed[self._key()] = len(body)
        return self._answer(200, b"", etag)

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if "list-type" in (query := parse_qs(address.query, keep_blank_values=True)):
            return self._list(query.get("prefix", [""])[0])
        if (refused := self._refused()) and self.server.breaks != "reads":
            return self._error(*refused)
        if (there := self.server.objects.get(self._key())) is None:
            return self._error(404, "NoSuchKey")
        body, etag = there
        if (span := self.headers.get("Range")) is None:
            return self._answer(200, body, etag)
        start = int(span.removeprefix("bytes=").partition("-")[0])
        return self._answer(206, body[start:], etag, {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"})

    do_HEAD = do_GET  # noqa: N815

    def do_DELETE(self) -> None:
        with self.server.lock:
            if refused := self._refused():
                return self._error(*refused)
            self.server.objects.pop(self._key(), None)
            self.server.listed.pop(self._key(), None)
        return self._answer(204, b"", None)

    def _list(self, prefix: str) -> None:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>{self.server.objects[key][1]}</ETag>"
            "<LastModified>2026-12-01T00:00:00Z</LastModified></Contents>"
            for key, size in sorted(self.server.listed.items())
            if key.startswith(prefix)
        )
        content = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode()
        self._answer(200, content, None, {"Content-Type": "application/xml"})

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode(), None)

    def _answer(self, status: int, content: bytes, etag: str | None, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in {"Last-Modified": MODIFIED, **(headers or {}), **({"ETag": etag} if etag else {})}.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
