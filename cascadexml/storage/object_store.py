"""S3 as the registry needs it: conditional writes, checked uploads, resumed reads, one sentence an error.

A thin layer over boto3 that gives plain values. It relies on what Amazon documents of S3 and on nothing more: strong
consistency after a write, `If-None-Match: *` and `If-Match` on PUT, `If-Match` with a range on GET. Boto3's own chain
finds endpoint, region and credentials.
"""

import base64
import hashlib
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from cascadexml.config import RegistrySettings
from cascadexml.errors import DataError, NotFoundError, RegistryError
from cascadexml.storage.s3 import EndpointError, is_missing, reason, s3_client

BLOCK = 1 << 20
PART = 16 << 20
"""Bytes of one part; a file of at most so many goes up in one request."""
MAX_PARTS = 10_000
CONFLICTS = 10
"""A conditional write that meets another one in progress (409) is tried so often."""

T = TypeVar("T")
Tell = Callable[[int], None]


@dataclass(frozen=True)
class Entry:
    """An object as a listing shows it."""

    key: str
    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True)
class Blob:
    """A small object, whole, with its user metadata."""

    data: bytes
    etag: str
    modified: datetime
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Upload:
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    id: str
    begun: datetime


class ObjectStore:
    """One bucket.

    All methods may be called from several threads. Each raises `NotFoundError` for a missing object or bucket and
    `RegistryError` for everything else that goes wrong; both are one sentence with the object's URI and no secret.

    Args:
        bucket: its name.
        settings: timeouts, attempts, encryption, retention.
    """

    def __init__(self, bucket: str, settings: RegistrySettings) -> None:
        try:
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise RegistryError('s3:// needs boto3, which is not installed: pip install "cascadexml[s3]".') from None
        self.bucket = bucket
        self.settings = settings
        try:
            self._client: Any = s3_client(
                connect_timeout=settings.connect_timeout,
                read_timeout=settings.read_timeout,
                retries={"mode": "standard", "total_max_attempts": settings.attempts},
                max_pool_connections=settings.workers + 2,
            )
        except (BotoCoreError, EndpointError) as error:
            raise _sentence(error, f"s3://{bucket}", "reached", None) from None

    def uri(self, key: str) -> str:
        """How messages call an object."""
        return f"s3://{self.bucket}/{key}"

    @contextmanager
    def _doing(self, what: str, key: str) -> Iterator[None]:
        """Turn boto's errors into the library's; `what` completes "s3://… cannot be"."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (ClientError, BotoCoreError, OSError) as error:
            raise _sentence(error, self.uri(key), what, self._client.meta.endpoint_url) from None

    def get(self, key: str) -> Blob:
        """A small object, whole."""
        for attempt in range(self.settings.attempts):
            with self._doing("read", key):
                answer = self._client.get_object(Bucket=self.bucket, Key=key)
                try:
                    data = answer["Body"].read()
                except _broken_streams():
                    if attempt + 1 == self.settings.attempts:
                        raise
                    continue
                return Blob(data, answer["ETag"], answer["LastModified"], answer.get("Metadata", {}))
        raise AssertionError("unreachable")

    def head(self, key: str) -> tuple[int, Mapping[str, str]] | None:
        """Size and user metadata of an object; None where there is none."""
        try:
            with self._doing("read", key):
                answer = self._client.head_object(Bucket=self.bucket, Key=key)
        except NotFoundError:
            return None
        return answer["ContentLength"], answer.get("Metadata", {})

    def list(self, prefix: str) -> list[Entry]:
        """All objects whose keys start with `prefix`, by key."""
        with self._doing("listed", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            found = [
                Entry(item["Key"], item["Size"], item["ETag"], item["LastModified"])
                for page in pages
                for item in page.get("Contents", [])
            ]
        return sorted(found, key=lambda entry: entry.key)

    def folders(self, prefix: str) -> Sequence[str]:
        """Names directly below `prefix` (which ends in "/", or is empty) that have objects below them, sorted."""
        with self._doing("listed", prefix):
            paginator = self._client.get_paginator("list_objects_v2")
            pages = paginator.paginate(Bucket=self.bucket, Prefix=prefix, Delimiter="/")
            found = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]
        return sorted(name.removeprefix(prefix).rstrip("/") for name in found)

    def put_if_absent(
        self, key: str, data: bytes, *, retain: bool = False, metadata: Mapping[str, str] | None = None
    ) -> bool:
        """Write an object where there is none; False if there is one.

        False may also mean that this very write came through and its answer was lost: read back to know.
        """
        return self._put(key, data, retain, metadata or {}, IfNoneMatch="*")

    def replace_if(self, key: str, data: bytes, etag: str) -> bool:
        """Replace an object that still has `etag`; False if it has not, which may be this very write's doing."""
        return self._put(key, data, False, {}, IfMatch=etag)

    def put(self, key: str, data: bytes, *, retain: bool = False, metadata: Mapping[str, str] | None = None) -> None:
        """Write a small object, whatever is there."""
        self._put(key, data, retain, metadata or {})

    def _put(self, key: str, data: bytes, retain: bool, metadata: Mapping[str, str], **condition: str) -> bool:
        from botocore.exceptions import ClientError

        digest = hashlib.sha256(data)
        arguments = {
            "Body": data,
            "ChecksumSHA256": base64.b64encode(digest.digest()).decode(),
            "Metadata": {"sha256": digest.hexdigest(), **metadata},
            **self._extra(retain),
            **condition,
        }
        for attempt in range(CONFLICTS):
            with self._doing("written", key):
                try:
                    self._client.put_object(Bucket=self.bucket, Key=key, **arguments)
                    return True
                except ClientError as error:
                    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                    code = error.response.get("Error", {}).get("Code")
                    if condition and (status == 412 or (code == "NoSuchKey" and "IfMatch" in condition)):
                        return False
                    if not (condition and status == 409) or attempt + 1 == CONFLICTS:
                        raise
            time.sleep(random.uniform(0, 0.1 * 2**attempt))
        raise AssertionError("unreachable")

    def _extra(self, retain: bool) -> dict[str, Any]:
        """Encryption, and for what is to stay the retention."""
        extra: dict[str, Any] = {}
        if self.settings.encryption != "none":
            extra["ServerSideEncryption"] = self.settings.encryption
        if self.settings.kms_key_id is not None:
            extra["SSEKMSKeyId"] = self.settings.kms_key_id
        if retain and self.settings.object_lock_days:
            until = datetime.now(UTC) + timedelta(days=self.settings.object_lock_days)
            extra |= {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
        return extra

    @staticmethod
    def goes_in_parts(size: int) -> bool:
        """Whether a file of so many bytes goes up in more than one request."""
        return size > PART

    def upload(self, path: Path, key: str, sha256: str, tell: Tell) -> None:
        """Bring a file up, checked on the way by SHA-256 and at the store by its checksums.

        A file larger than a part goes up in parts, several at once; nothing is left if that fails, save when the
        process dies. The object's metadata holds `sha256`.

        Args:
            path: a local file.
            key: where it goes; what is there is replaced.
            sha256: what the file must have, 64 hex digits.
            tell: called with numbers of bytes as they have arrived.

        Raises:
            DataError: the file is not the one with this SHA-256.
        """
        size = path.stat().st_size
        if self.goes_in_parts(size):
            self._upload_parts(path, key, sha256, size, tell)
            return
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _changed(path)
        self.put(key, data, retain=True)
        tell(len(data))

    def _upload_parts(self, path: Path, key: str, sha256: str, size: int, tell: Tell) -> None:
        part_size = max(PART, math.ceil(size / MAX_PARTS))
        target = {"Bucket": self.bucket, "Key": key}
        with self._doing("written", key):
            begun = self._client.create_multipart_upload(
                **target, ChecksumAlgorithm="SHA256", Metadata={"sha256": sha256}, **self._extra(True)
            )
        target["UploadId"] = begun["UploadId"]

        def send(number: int, data: bytes) -> dict[str, Any]:
            checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
            with self._doing("written", key):
                answer = self._client.upload_part(**target, PartNumber=number, Body=data, ChecksumSHA256=checksum)
            tell(len(data))
            return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

        def parts(whole: Any) -> Iterator[Callable[[], dict[str, Any]]]:
            with path.open("rb") as file:
                for number in range(1, MAX_PARTS + 1):
                    data = file.read(part_size)
                    if not data:
                        return
                    whole.update(data)
                    yield lambda number=number, data=data: send(number, data)  # type: ignore[misc]

        try:
            whole = hashlib.sha256()
            sent = in_parallel(parts(whole), self.settings.workers)
            if whole.hexdigest() != sha256:
                raise _changed(path)
            try:
                with self._doing("written", key):
                    self._client.complete_multipart_upload(**target, MultipartUpload={"Parts": sent})
            except NotFoundError:
                # A completed upload is gone: so it is when boto asks again because the first answer was lost.
                found = self.head(key)
                if found is None or found[0] != size or found[1].get("sha256") != sha256:
                    raise
        except BaseException:
            with suppress(RegistryError):
                self.abort(Upload(key, target["UploadId"], datetime.now(UTC)))
            raise

    def download(self, entry: Entry, target: Path, tell: Tell, stop: threading.Event) -> None:
        """Append to `target` what it lacks of an object, going on where a connection broke.

        Args:
            entry: the object, which must still have this ETag.
            target: a file that holds the object's first bytes, or nothing; its folder exists.
            tell: called with numbers of bytes as they have arrived.
            stop: when it is set, this ends early.

        Raises:
            RegistryError: it broke off again and again without a byte in between, or the object was replaced.
        """
        failures = 0
        with target.open("ab") as file:
            while (start := file.tell()) < entry.size and not stop.is_set():
                try:
                    self._append(entry, start, file, tell, stop)
                except _broken_streams() as error:
                    failures = 1 if file.tell() > start else failures + 1
                    if failures >= self.settings.attempts:
                        raise RegistryError(
                            f"{self.uri(entry.key)} broke off {failures} times at byte {file.tell()} "
                            f"({type(error).__name__}): try again later, it resumes."
                        ) from None
                    time.sleep(random.uniform(0, 0.2 * 2**failures))
                else:
                    failures = failures + 1 if file.tell() == start else 0
                    if failures >= self.settings.attempts:
                        raise RegistryError(
                            f"{self.uri(entry.key)} ends at byte {start} of {entry.size}: try again later."
                        )

    def _append(self, entry: Entry, start: int, file: Any, tell: Tell, stop: threading.Event) -> None:
        """Read from byte `start` on; what breaks while bytes come in is left to the caller."""
        from botocore.exceptions import ClientError

        ranged = {"Range": f"bytes={start}-"} if start else {}
        with self._doing("read", entry.key):
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=entry.key, IfMatch=entry.etag, **ranged)
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412:
                    raise RegistryError(f"{self.uri(entry.key)} was replaced while it was read: try again.") from None
                raise
        if start and not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
            raise RegistryError(f"{self.uri(entry.key)} answered another range than was asked for: check the server.")
        with closing(answer["Body"]) as body:
            for block in body.iter_chunks(BLOCK):
                if stop.is_set():
                    return
                file.write(block)
                tell(len(block))

    def delete(self, key: str) -> None:
        """Remove an object; it may be gone already."""
        with self._doing("removed", key):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    def delete_if(self, key: str, etag: str) -> bool:
        """Remove an object that still has `etag`; False if it has not or is gone."""
        from botocore.exceptions import ClientError

        with self._doing("removed", key):
            try:
                self._client.delete_object(Bucket=self.bucket, Key=key, IfMatch=etag)
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (404, 412):
                    return False
                raise
        return True

    def uploads(self, prefix: str) -> Sequence[Upload]:
        """Multipart uploads in progress or abandoned, of keys that start with `prefix`."""
        with self._doing("listed", prefix):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
            return [
                Upload(item["Key"], item["UploadId"], item["Initiated"])
                for page in pages
                for item in page.get("Uploads", [])
                if item["Key"].startswith(prefix)
            ]

    def abort(self, upload: Upload) -> None:
        """Give up a multipart upload; it may be gone already."""
        with suppress(NotFoundError), self._doing("removed", upload.key):
            self._client.abort_multipart_upload(Bucket=self.bucket, Key=upload.key, UploadId=upload.id)


def in_parallel(tasks: Iterator[Callable[[], T]], workers: int, stop: threading.Event | None = None) -> list[T]:
    """Run tasks in threads and give their results in order; tasks are drawn as threads become free.

    When one fails, `stop` is set, no other is begun, and its error is raised once the running ones have ended.
    """
    results: list[Future[T]] = []
    running: set[Future[T]] = set()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for task in tasks:
                if len(running) >= workers:
                    done, running = wait(running, return_when="FIRST_COMPLETED")
                    for future in done:
                        future.result()
                results.append(pool.submit(task))
                running.add(results[-1])
            for future in wait(running, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            if stop is not None:
                stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in results]


def _changed(path: Path) -> DataError:
    return DataError(f"{path} changed while it was uploaded: nothing was published; publish again.")


def _broken_streams() -> tuple[type[Exception], ...]:
    """What may be raised while an answer's bytes come in."""
    from botocore.exceptions import FlexibleChecksumError, HTTPClientError, IncompleteReadError
    from urllib3.exceptions import HTTPError

    # The checksum is that of a whole object, found wrong after its last byte: who reads it compares SHA-256s.
    return (HTTPClientError, IncompleteReadError, FlexibleChecksumError, HTTPError, ConnectionError, TimeoutError)


def _sentence(error: Exception, uri: str, what: str, endpoint: str | None) -> RegistryError:
    kind = NotFoundError if is_missing(error) else RegistryError
    return kind(f"{uri} cannot be {what}: {reason(error, endpoint)}.")
