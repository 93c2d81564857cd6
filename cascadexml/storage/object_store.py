"""S3 as the registry needs it: conditional writes, checked uploads, resumed reads, one sentence an error.

A thin layer over boto3 that gives plain values. It relies on what Amazon documents of S3 and on nothing more: strong
consistency after a write, `If-None-Match: *` and `If-Match` on PUT, `If-Match` with a range on GET. Boto3's own chain
finds endpoint, region and credentials.
"""

import base64
import hashlib
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path

from cascadexml.errors import RegistryError
from cascadexml.storage import multipart
from cascadexml.storage.bucket import Bucket, Tell, status_of
from cascadexml.storage.multipart import Upload
from cascadexml.storage.retry import Interrupted, resuming, until_passed
from cascadexml.storage.s3 import blocks_of

CONFLICTS = 10
"""A conditional write that meets another one in progress (409) is tried so often."""
CONFLICT_BACKOFF_SECONDS = 0.05
READ_BACKOFF_SECONDS = 0.2


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


class ObjectStore(Bucket):
    """One bucket, read and written.

    All methods may be called from several threads. Each raises `NotFoundError` for a missing object or bucket and
    `RegistryError` for everything else that goes wrong; both are one sentence with the object's URI and no secret.
    """

    def get(self, key: str) -> Blob:
        """A small object, whole."""

        def read() -> Blob:
            answer = self.client.get_object(Bucket=self.bucket, Key=key)
            data = b"".join(blocks_of(answer["Body"]))
            return Blob(data, answer["ETag"], answer["LastModified"], answer.get("Metadata", {}))

        with self.doing("read", key):
            return resuming(read, lambda: 0, self.settings.attempts, READ_BACKOFF_SECONDS, self.uri(key))

    def list(self, prefix: str) -> list[Entry]:
        """All objects whose keys start with `prefix`, by key."""
        with self.doing("listed", prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            found = [
                Entry(item["Key"], item["Size"], item["ETag"], item["LastModified"])
                for page in pages
                for item in page.get("Contents", [])
            ]
        return sorted(found, key=lambda entry: entry.key)

    def folders(self, prefix: str) -> Sequence[str]:
        """Names directly below `prefix` (which ends in "/", or is empty) that have objects below them, sorted."""
        with self.doing("listed", prefix):
            paginator = self.client.get_paginator("list_objects_v2")
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
            "Bucket": self.bucket,
            "Key": key,
            "Body": data,
            "ChecksumSHA256": base64.b64encode(digest.digest()).decode(),
            "Metadata": {"sha256": digest.hexdigest(), **metadata},
            **self.protection(retain),
            **condition,
        }

        def in_conflict(error: BaseException) -> bool:
            return bool(condition) and isinstance(error, ClientError) and status_of(error) == HTTPStatus.CONFLICT

        with self.doing("written", key):
            try:
                put = partial(self.client.put_object, **arguments)
                until_passed(put, in_conflict, CONFLICTS, CONFLICT_BACKOFF_SECONDS)
            except ClientError as error:
                gone = error.response.get("Error", {}).get("Code") == "NoSuchKey" and "IfMatch" in condition
                if condition and (gone or status_of(error) == HTTPStatus.PRECONDITION_FAILED):
                    return False
                raise
        return True

    @staticmethod
    def goes_in_parts(size: int) -> bool:
        """Whether a file of so many bytes goes up in more than one request."""
        return multipart.goes_in_parts(size)

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
        if multipart.goes_in_parts(path.stat().st_size):
            multipart.upload_in_parts(self, path, key, sha256, tell)
            return
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise multipart.changed(path)
        self.put(key, data, retain=True)
        tell(len(data))

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
        uri = self.uri(entry.key)
        with target.open("ab") as file:

            def read() -> None:
                # A checksum of the whole object, found wrong after the last byte, leaves nothing to read: who reads
                # it compares SHA-256s.
                if (start := file.tell()) >= entry.size or stop.is_set():
                    return
                with closing(self._rest(entry, start)) as blocks:
                    for block in blocks:
                        if stop.is_set():
                            return
                        file.write(block)
                        tell(len(block))
                if file.tell() < entry.size:
                    raise Interrupted(f"it ended, of {entry.size} bytes")

            try:
                resuming(read, file.tell, self.settings.attempts, READ_BACKOFF_SECONDS, uri)
            except Interrupted as error:
                raise RegistryError(
                    f"{uri} broke off {error.failures} times at byte {file.tell()} ({error}): try again later, it "
                    "resumes."
                ) from None

    def _rest(self, entry: Entry, start: int) -> Generator[bytes, None, None]:
        """The bytes of an object from `start` on; what breaks while they come in is left to the caller."""
        from botocore.exceptions import ClientError

        ranged = {"Range": f"bytes={start}-"} if start else {}
        with self.doing("read", entry.key):
            try:
                answer = self.client.get_object(Bucket=self.bucket, Key=entry.key, IfMatch=entry.etag, **ranged)
            except ClientError as error:
                if status_of(error) == HTTPStatus.PRECONDITION_FAILED:
                    raise RegistryError(f"{self.uri(entry.key)} was replaced while it was read: try again.") from None
                raise
        if start and not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
            raise RegistryError(f"{self.uri(entry.key)} answered another range than was asked for: check the server.")
        with closing(blocks_of(answer["Body"])) as blocks:
            yield from blocks

    def delete(self, key: str) -> None:
        """Remove an object; it may be gone already."""
        with self.doing("removed", key):
            self.client.delete_object(Bucket=self.bucket, Key=key)

    def delete_if(self, key: str, etag: str) -> bool:
        """Remove an object that still has `etag`; False if it has not or is gone."""
        from botocore.exceptions import ClientError

        with self.doing("removed", key):
            try:
                self.client.delete_object(Bucket=self.bucket, Key=key, IfMatch=etag)
            except ClientError as error:
                if status_of(error) in (HTTPStatus.NOT_FOUND, HTTPStatus.PRECONDITION_FAILED):
                    return False
                raise
        return True

    def uploads(self, prefix: str) -> Sequence[Upload]:
        """Multipart uploads in progress or abandoned, of keys that start with `prefix`."""
        return multipart.uploads(self, prefix)

    def abort(self, upload: Upload) -> None:
        """Give up a multipart upload; it may be gone already."""
        multipart.abort(self, upload.key, upload.id)
