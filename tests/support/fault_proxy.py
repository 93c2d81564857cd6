"""A proxy on loopback between an S3 client and a store, which breaks what it is told to break and logs every request.

It forwards each request as it came, Host header included, so that a signature made for the proxy's address holds.
"""

import http.client
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Kind = Literal[
    "reset before",  # the request is read, not forwarded, and the connection reset
    "reset after",  # the request is forwarded and served; the connection is reset in place of an answer
    "reset inside",  # the connection is reset after `at` bytes of the answer's body
    "stall",  # `at` bytes of the answer's body, then nothing more, ever
    "truncate",  # the connection is closed after `at` bytes of the answer's body, as if that were all
    "cut request",  # the store gets only the first `at` bytes of the request's body, the client a reset
    "black hole",  # the request is read, not forwarded, and never answered
    "lost answer",  # the request is forwarded and served, and never answered
    "slow down",  # 503 SlowDown, as S3 says it; not forwarded
    "server error",  # 500 InternalError after the request was forwarded and served
    "delay",  # forwarded after `seconds`
    "flip answer",  # one bit of the answer's body is another
    "flip request",  # one bit of the request's body is another
]


@dataclass
class Fault:
    """What happens to the requests that match.

    Attributes:
        kind: what happens, see `Kind`.
        method: a pattern that the whole method matches; empty for all.
        path: a pattern that is searched for in the path with its query; empty for all.
        skip: so many matching requests pass before the first that is hit.
        times: so many are hit; None for all from then on.
        each: count the requests of every method, path and range apart: `times` of each are hit.
        at: the byte of the body where it happens; None for the middle.
        seconds: how long a delay is.
    """

    kind: Kind
    method: str = ""
    path: str = ""
    skip: int = 0
    times: int | None = 1
    each: bool = False
    at: int | None = None
    seconds: float = 0.0
    seen: Counter[str] = field(default_factory=Counter, init=False)

    def hits(self, request: "Request") -> bool:
        """Whether this request is hit; counts it."""
        method, path = request.method, request.path
        if (self.method and not re.fullmatch(self.method, method)) or not re.search(self.path, path):
            return False
        kind = f"{method} {path} {request.headers.get('range')}" if self.each else ""
        self.seen[kind] += 1
        return self.seen[kind] > self.skip and (self.times is None or self.seen[kind] <= self.skip + self.times)

    def where(self, body: bytes) -> int:
        """The byte of `body` at which it happens."""
        return len(body) // 2 if self.at is None else min(self.at, len(body))


@dataclass
class Request:
    """One line of the log: what was asked, what the store said (None: not forwarded), what was done to it."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: int = 0
    status: int | None = None
    answered: int = 0
    fault: Kind | None = None


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and forwards to `port` there.

    Attributes:
        endpoint: its own URL, which clients take for the store's.
        log: all requests in the order of their arrival.
        faults: of those that match a request, the first that hits it is done to it.
        forwarded: called when the store has answered a request and the client does not know yet.
        answered: called when the client has been sent the answer.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.forwarded: Callable[[Request], None] | None = None
        self.answered: Callable[[Request], None] | None = None
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def take(self, method: str, path: str, headers: dict[str, str], body: int) -> tuple[Request, Fault | None]:
        """Log a request and find the fault that hits it."""
        with self._lock:
            request = Request(len(self.log) + 1, method, path, headers, body)
            self.log.append(request)
            # Every fault counts the requests that match it, hit or not, so no generator that stops at the first.
            fault = next(iter([fault for fault in self.faults if fault.hits(request)]), None)
            request.fault = fault.kind if fault else None
            return request, fault

    def break_with(self, *faults: Fault) -> None:
        """Forget the log and the faults so far and set these."""
        with self._lock:
            self.log, self.faults = [], list(faults)

    def close(self) -> None:
        """Stop listening; connections that are open end with their clients."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def fault_proxy(endpoint: str) -> Iterator[FaultProxy]:
    """A proxy to the store at `endpoint`, closed at the end."""
    proxy = FaultProxy(int(endpoint.rpartition(":")[2]))
    try:
        yield proxy
    finally:
        proxy.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    proxy: FaultProxy

    def shutdown_request(self, request: Any) -> None:
        # The usual way sends an orderly end first; a reset must come alone.
        if request.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)[0]:
            request.close()
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def serve(self) -> None:
        proxy = self.server.proxy
        body = self._read_body()
        if body is None:
            self.close_connection = True
            return None
        request, fault = proxy.take(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, len(body))
        kind = fault.kind if fault else None
        if kind == "reset before":
            return self._reset()
        if kind == "black hole":
            return self._wait_for_the_end()
        if kind == "slow down":
            return self._error(503, "SlowDown", "Please reduce your request rate.")
        if fault and kind == "delay":
            time.sleep(fault.seconds)
        if fault and kind == "cut request":
            with suppress(OSError, http.client.HTTPException):
                self._forward(body, fault.where(body))
            return self._reset()
        if fault and kind == "flip request":
            body = _flip(body, fault.where(body))
        try:
            answer, content = self._forward(body)
        except (OSError, http.client.HTTPException):
            return self._reset()
        request.status = answer.status
        if proxy.forwarded:
            proxy.forwarded(request)
        if kind == "reset after":
            return self._reset()
        if kind == "lost answer":
            return self._wait_for_the_end()
        if kind == "server error":
            return self._error(500, "InternalError", "We encountered an internal error. Please try again.")
        if fault and kind == "flip answer":
            content = _flip(content, fault.where(content))
        part = content[: fault.where(content)] if fault and kind in ("reset inside", "stall", "truncate") else content
        self._answer(answer, content, part)
        request.answered = len(part)
        if proxy.answered:
            proxy.answered(request)
        if kind == "reset inside":
            return self._reset()
        if kind == "stall":
            return self._wait_for_the_end()
        if kind == "truncate":
            self.close_connection = True
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve  # noqa: N815

    def _read_body(self) -> bytes | None:
        """All of the request's body; None if the client went away in the middle of it."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        return body if len(body) == size else None

    def _forward(self, body: bytes, cut: int | None = None) -> tuple[http.client.HTTPResponse, bytes]:
        """Send the request as it came, or only `cut` bytes of its body; give the answer and its whole body."""
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.proxy.port, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                # The proxy has let the body come by itself (100 Continue) and holds all of it.
                if name.lower() not in ("expect", "connection", "transfer-encoding", "content-length"):
                    upstream.putheader(name, value)
            if body or "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
                upstream.putheader("Content-Length", str(len(body)))
            upstream.endheaders(body[:cut])
            if cut is not None:
                raise ConnectionAbortedError
            answer = upstream.getresponse()
            return answer, answer.read()
        finally:
            upstream.close()

    def _answer(self, answer: http.client.HTTPResponse, content: bytes, part: bytes) -> None:
        self.send_response_only(answer.status, answer.reason)
        length = answer.headers.get("Content-Length") if self.command == "HEAD" else str(len(content))
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        if length is not None and answer.status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(part)

    def _error(self, status: int, code: str, message: str) -> None:
        content = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _wait_for_the_end(self) -> None:
        """Say nothing until the client gives up."""
        self.connection.settimeout(120)
        with suppress(OSError):
            self.connection.recv(1)
        self.close_connection = True


def _flip(content: bytes, at: int) -> bytes:
    if not content:
        return content
    at = min(at, len(content) - 1)
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
