"""Fetching a source: a local path, http(s):// or s3://, a file, a folder or an archive → local files.

Downloads go to a `.part` file and resume where they stopped, within a run and over runs, as long as the server says
that the object is the same one (ETag or Last-Modified). A complete file that has not changed is not fetched again.
"""

import json
import logging
import lzma
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from cascadexml import bundle
from cascadexml.errors import DataError
from cascadexml.progress import Progress, silent
from cascadexml.storage.addresses import public_name, queries_kept_from_logs
from cascadexml.storage.s3 import EndpointError, reason, s3_client

ATTEMPTS = 6
BACKOFF_SECONDS = 0.5
TIMEOUT_SECONDS = 60
BLOCK = 1 << 20
# Text packs some 3 to 20 times; an archive that unpacks to far more is there to fill the disk.
MAX_RATIO = 200
MIN_UNPACKED_LIMIT = 1 << 30
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")

log = logging.getLogger(__name__)


def fetch(source: str, folder: Path, sha256: str | None = None, progress: Progress | None = None) -> Path:
    """Bring a source to this machine and unpack it if it is an archive.

    Args:
        source: a local file or folder, `http(s)://…`, or `s3://bucket/key` (one object, or all below a prefix; boto3
            finds the credentials, and AWS_ENDPOINT_URL is honoured).
        folder: where downloads and unpacked archives go; kept, so that a later call can resume.
        sha256: what the file must have, as 64 hex digits; for one file or archive only.
        progress: called with bytes done and in all.

    Returns:
        A file or folder to read. A local file or folder that is no archive is given back where it lies; .xz, .gz and
        .bz2 files stay compressed, since the readers read them.

    Raises:
        DataError: the source is not there or cannot be reached, its SHA-256 differs, or an archive is damaged or holds
            what no archive of data should: paths that lead outside, links, devices, or far more than its size.
    """
    show = progress or silent
    scheme = _scheme(source)
    if scheme in ("http", "https"):
        path = _fetch_http(source, folder, show)
    elif scheme == "s3":
        path = _fetch_s3(source, folder, show)
    elif scheme:
        raise DataError(f"{public_name(source)} has the scheme {scheme!r}, expected a local path, http(s):// or s3://.")
    else:
        path = Path(source).expanduser()
        if not path.exists():
            raise DataError(f"{path} does not exist: set download.source to a file, a folder, http(s):// or s3://.")
    if sha256 is not None:
        _check_sha256(path, sha256, source, downloaded=bool(scheme))
    if path.is_file() and path.name.lower().endswith(ARCHIVES):
        unpacked = folder / "unpacked"
        unpack(path, unpacked)
        return unpacked
    return path


def _scheme(source: str) -> str:
    """The scheme of an address, or nothing for a local path."""
    if "://" not in source:
        return ""
    try:
        return urlsplit(source).scheme.lower()
    except ValueError:
        raise DataError(f"{public_name(source)} is no address: expected http(s)://host/path or s3://bucket.") from None


def _check_sha256(path: Path, expected: str, source: str, downloaded: bool) -> None:
    name = public_name(source)
    if not path.is_file():
        raise DataError(f"download.sha256 is set, but {name} is a folder: a SHA-256 can be checked for one file only.")
    found = bundle.sha256_of(path)
    if found != expected.strip().lower():
        if downloaded:
            path.unlink()
        raise DataError(f"{name} has SHA-256 {found}, expected {expected}: correct download.sha256 or the source.")


@dataclass(frozen=True)
class _Stream:
    """The rest of a remote object from byte `start` on; `unchanged` when the complete local copy is still right."""

    start: int
    total: int | None
    validator: str | None
    blocks: Iterator[bytes]
    unchanged: bool = False


class _Interrupted(Exception):  # noqa: N818 — it is caught here and tried again, never an error that leaves
    """The connection broke while bytes were coming in."""


_Open = Callable[[int, str | None, bool], _Stream]


def _download(open_stream: _Open, target: Path, state: Path, name: str, show: Progress) -> None:
    """Bring one object to `target`, trying again from where it stopped.

    `open_stream(start, validator, complete)` asks for the bytes from `start` on, if the object still answers to
    `validator`; with `complete`, only if it has changed.
    """
    state.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    part, note = state / f"{target.name}.part", state / f"{target.name}.json"
    failures, furthest = 0, 0
    while True:
        validator = json.loads(note.read_text())["validator"] if note.is_file() else None
        complete = target.is_file() and validator is not None and not part.exists()
        done = part.stat().st_size if part.is_file() and validator is not None else 0
        try:
            stream = open_stream(done, validator, complete)
            if stream.unchanged:
                log.info("%s has not changed since it was fetched", name)
                return
            done = stream.start
            with part.open("r+b" if done else "wb") as file:
                file.truncate(done)
                file.seek(done)
                note.write_text(json.dumps({"validator": stream.validator}))
                for block in stream.blocks:
                    file.write(block)
                    done += len(block)
                    show(f"fetching {target.name}", done, stream.total or done + 1, {})
            if stream.total is not None and done != stream.total:
                raise _Interrupted(f"{done} of {stream.total} bytes came")
            part.replace(target)
            show(f"fetching {target.name}", done, done, {})
            return
        except _Interrupted as error:
            failures, furthest = (1, done) if done > furthest else (failures + 1, furthest)
            if failures >= ATTEMPTS:
                raise DataError(f"{name} broke off {failures} times ({error}): run again later, it resumes.") from None
            log.warning("%s broke off at byte %d (%s), trying again", name, done, error)
            time.sleep(BACKOFF_SECONDS * 2 ** (failures - 1))


def _fetch_http(url: str, folder: Path, show: Progress) -> Path:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.exceptions import HTTPError
    from urllib3.util.retry import Retry

    name = public_name(url)
    target = folder / "files" / (PurePosixPath(unquote(urlsplit(url).path)).name or "download")
    session = requests.Session()
    retry = Retry(total=ATTEMPTS - 1, backoff_factor=BACKOFF_SECONDS, status_forcelist=(429, 500, 502, 503, 504))
    for prefix in ("http://", "https://"):
        session.mount(prefix, HTTPAdapter(max_retries=retry))

    def blocks(response: requests.Response) -> Iterator[bytes]:
        try:
            yield from response.raw.stream(BLOCK, decode_content=False)
        except (HTTPError, OSError) as error:
            raise _Interrupted(type(error).__name__) from None

    def open_stream(start: int, validator: str | None, complete: bool) -> _Stream:
        # identity: else the server may send other bytes than the file's, and ranges would count those.
        headers = {"Accept-Encoding": "identity"}
        if complete and validator:
            headers["If-None-Match" if validator.startswith('"') else "If-Modified-Since"] = validator
        elif start and validator:
            headers |= {"Range": f"bytes={start}-", "If-Range": validator}
        try:
            response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS)
        except requests.RequestException as error:
            reason = type(error).__name__
            raise DataError(f"{name} cannot be reached ({reason}): check the address and the network.") from None
        if response.status_code == requests.codes.not_modified:
            return _Stream(0, None, validator, iter(()), unchanged=True)
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return open_stream(0, None, False)
        if not response.ok:
            raise DataError(f"{name} answered {response.status_code} {response.reason}: check the address and access.")
        partial = response.status_code == requests.codes.partial_content
        if partial and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            return open_stream(0, None, False)
        at = start if partial else 0
        length = response.headers.get("Content-Length")
        etag = response.headers.get("ETag", "")
        same = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        return _Stream(at, at + int(length) if length else None, same, blocks(response))

    with session, queries_kept_from_logs():
        _download(open_stream, target, folder / "state", name, show)
    return target


def _fetch_s3(source: str, folder: Path, show: Progress) -> Path:
    from botocore.exceptions import BotoCoreError, ClientError

    parts, name = urlsplit(source, allow_fragments=False), public_name(source)
    bucket, key = parts.netloc, source.partition("://")[2].partition("/")[2]
    if not bucket:
        raise DataError(f"{name} names no bucket: expected s3://bucket/key.")
    if "@" in bucket:
        raise DataError(f"{name} was given with a password: take it out, AWS_SECRET_ACCESS_KEY is the place for it.")
    endpoint = None
    try:
        client = s3_client(retries={"mode": "standard", "max_attempts": ATTEMPTS})
        endpoint = client.meta.endpoint_url
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    except (BotoCoreError, ClientError, EndpointError) as error:
        raise DataError(f"{name} cannot be listed: {reason(error, endpoint)}.") from None
    files, state = folder / "files", folder / "state"
    if key in keys and not key.endswith("/"):
        wanted = {key: files / PurePosixPath(key).name}
    else:
        prefix = f"{key.rstrip('/')}/" if key else ""
        below = [k for k in keys if k.startswith(prefix) and not k.endswith("/")]
        wanted = {k: files / _safe_path(k.removeprefix(prefix), name) for k in below}
    if not wanted:
        raise DataError(f"{name} is neither an object nor a prefix with objects below it: check the key.")
    for each, target in wanted.items():

        def open_stream(start: int, validator: str | None, complete: bool, each: str = each) -> _Stream:
            conditions: dict[str, Any] = {}
            if complete:
                conditions = {"IfNoneMatch": validator}
            elif start:
                conditions = {"IfMatch": validator, "Range": f"bytes={start}-"}
            try:
                answer = client.get_object(Bucket=bucket, Key=each, **conditions)
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                if status == 304:
                    return _Stream(0, None, validator, iter(()), unchanged=True)
                if status in (412, 416) and start:
                    return open_stream(0, None, False)
                raise DataError(f"s3://{bucket}/{each} cannot be fetched: {reason(error, endpoint)}.") from None
            except BotoCoreError as error:
                raise _Interrupted(type(error).__name__) from None
            return _Stream(start, start + answer["ContentLength"], answer["ETag"], blocks(answer["Body"]))

        def blocks(body: Any) -> Iterator[bytes]:
            try:
                yield from body.iter_chunks(BLOCK)
            except (BotoCoreError, OSError) as error:
                raise _Interrupted(type(error).__name__) from None

        below_files = target.relative_to(files)
        _download(open_stream, target, state / below_files.parent, f"s3://{bucket}/{each}", show)
    for stale in set(files.rglob("*")) - set(wanted.values()):
        # An object that is gone from the prefix must not be read as a split.
        if stale.is_file():
            stale.unlink()
    return files / PurePosixPath(key).name if key in wanted else files


def unpack(archive: Path, folder: Path, max_bytes: int | None = None) -> None:
    """Unpack a .zip or .tar.* into `folder`, which appears whole or not at all and replaces what was there.

    Args:
        archive: the file; its name tells the kind.
        folder: where the files go.
        max_bytes: the most that may come out; by default 200 times the archive's size, and at least 1 GiB.

    Raises:
        DataError: the archive is damaged or encrypted, unpacks to more than allowed, or holds an absolute path, a path
            that leads outside, the same path twice, a link or a device.
    """
    limit = max_bytes if max_bytes is not None else max(MIN_UNPACKED_LIMIT, MAX_RATIO * archive.stat().st_size)
    left = limit
    members = _zip_members if archive.name.lower().endswith(".zip") else _tar_members
    try:
        with bundle.beside(folder) as new:
            new.mkdir()
            for name, content in members(archive):
                target = new / _safe_path(name, str(archive))
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, target.open("xb") as file:
                    while block := content.read(BLOCK):
                        left -= len(block)
                        if left < 0:
                            raise DataError(
                                f"{archive} unpacks to more than {limit} bytes: unpack it by hand if it is right."
                            )
                        file.write(block)
    except FileExistsError as error:
        raise DataError(f"{archive} holds {Path(error.filename).name} twice: pack it again.") from None
    except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, RuntimeError, OSError) as error:
        raise DataError(f"{archive} cannot be unpacked ({error}): fetch it again.") from None


def _safe_path(name: str, where: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or "\\" in name
        or "\0" in name
        or not path.parts
        or ":" in path.parts[0]
    ):
        raise DataError(f"{where} holds the path {name!r}, which may lead outside its folder: do not trust it.")
    return path


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(f"{archive} holds {member.filename!r}, a link or device: pack plain files only.")
            if not member.is_dir() and not _is_litter(member.filename):
                yield member.filename, file.open(member)


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive, "r:*") as file:
        for member in file:
            if member.isdir() or _is_litter(member.name):
                continue
            content = file.extractfile(member) if member.isreg() else None
            if content is None:
                raise DataError(f"{archive} holds {member.name!r}, a link or device: pack plain files only.")
            yield member.name, content
        # A tar ends before its compressed stream does; only the stream's end holds the checksum.
        while file.fileobj and file.fileobj.read(BLOCK):
            pass


def _is_litter(name: str) -> bool:
    """What macOS adds to archives."""
    parts = PurePosixPath(name).parts
    return bool(parts) and (parts[0] == "__MACOSX" or parts[-1].startswith("._"))
