"""Fetching from http:// and https://."""

from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cascadexml.errors import DataError
from cascadexml.progress import Progress
from cascadexml.storage import retry
from cascadexml.storage.addresses import public_name, queries_kept_from_logs
from cascadexml.storage.resume import Stream, download
from cascadexml.storage.retry import Interrupted

if TYPE_CHECKING:
    import requests

TIMEOUT_SECONDS = 60
BLOCK = 1 << 20


def fetch_http(url: str, folder: Path, show: Progress) -> Path:
    """Bring what a URL names to `folder`/files, under the last part of its path.

    Args:
        url: http(s)://…
        folder: where downloads go; kept, so that a later call can resume.
        show: called with bytes done and in all.

    Returns:
        The file.

    Raises:
        DataError: the server cannot be reached, refuses, or breaks off again and again.
    """
    name = public_name(url)
    target = folder / "files" / (PurePosixPath(unquote(urlsplit(url).path)).name or "download")
    with _session() as session, queries_kept_from_logs():

        def open_stream(start: int, validator: str | None, complete: bool) -> Stream:
            response = _ask(session, url, name, _conditions(start, validator, complete))
            if response.status_code == HTTPStatus.NOT_MODIFIED:
                return Stream(0, None, validator, iter(()), unchanged=True)
            if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return open_stream(0, None, False)
            if not response.ok:
                raise DataError(
                    f"{name} answered {response.status_code} {response.reason}: check the address and access."
                )
            partial = response.status_code == HTTPStatus.PARTIAL_CONTENT
            if partial and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                return open_stream(0, None, False)
            at = start if partial else 0
            length = response.headers.get("Content-Length")
            return Stream(at, at + int(length) if length else None, _validator_of(response), _blocks(response))

        download(open_stream, target, folder / "state", name, show)
    return target


def _session() -> "requests.Session":
    """A session that tries a request again when the connection fails or the server is busy."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    session = requests.Session()
    policy = Retry(
        total=retry.ATTEMPTS - 1, backoff_factor=retry.BACKOFF_SECONDS, status_forcelist=(429, 500, 502, 503, 504)
    )
    for prefix in ("http://", "https://"):
        session.mount(prefix, HTTPAdapter(max_retries=policy))
    return session


def _conditions(start: int, validator: str | None, complete: bool) -> dict[str, str]:
    # identity: else the server may send other bytes than the file's, and ranges would count those.
    headers = {"Accept-Encoding": "identity"}
    if complete and validator:
        headers["If-None-Match" if validator.startswith('"') else "If-Modified-Since"] = validator
    elif start and validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    return headers


def _ask(session: "requests.Session", url: str, name: str, headers: dict[str, str]) -> "requests.Response":
    from requests import RequestException

    try:
        return session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS)
    except RequestException as error:
        reason = type(error).__name__
        raise DataError(f"{name} cannot be reached ({reason}): check the address and the network.") from None


def _validator_of(response: "requests.Response") -> str | None:
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _blocks(response: "requests.Response") -> Iterator[bytes]:
    from urllib3.exceptions import HTTPError

    try:
        yield from response.raw.stream(BLOCK, decode_content=False)
    except (HTTPError, OSError) as error:
        raise Interrupted(type(error).__name__) from None
