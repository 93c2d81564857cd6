"""Large files go up in parts, several at once: whole or, save when the process dies, not at all."""

import base64
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cascadexml.errors import DataError, NotFoundError, RegistryError
from cascadexml.storage.bucket import Bucket, Tell
from cascadexml.storage.parallel import in_parallel

PART = 16 << 20
"""Bytes of one part; a file of at most so many goes up in one request."""
MAX_PARTS = 10_000


@dataclass(frozen=True)
class Upload:
    """A multipart upload that was begun and neither completed nor aborted."""

    key: str
    id: str
    begun: datetime


def goes_in_parts(size: int) -> bool:
    """Whether a file of so many bytes goes up in more than one request."""
    return size > PART


def upload_in_parts(bucket: Bucket, path: Path, key: str, sha256: str, tell: Tell) -> None:
    """Bring a file up in parts, each with a checksum that the store compares; nothing is left if that fails.

    Args:
        bucket: where it goes.
        path: a local file.
        key: what is there is replaced.
        sha256: what the file must have; the object's metadata holds it.
        tell: called with the size of each part that has arrived.

    Raises:
        DataError: the file is not the one with this SHA-256.
    """
    size = path.stat().st_size
    target = {"Bucket": bucket.bucket, "Key": key}
    with bucket.doing("written", key):
        begun = bucket.client.create_multipart_upload(
            **target, ChecksumAlgorithm="SHA256", Metadata={"sha256": sha256}, **bucket.protection(True)
        )
    target["UploadId"] = begun["UploadId"]

    def send(number: int, data: bytes) -> dict[str, Any]:
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
        with bucket.doing("written", key):
            answer = bucket.client.upload_part(**target, PartNumber=number, Body=data, ChecksumSHA256=checksum)
        tell(len(data))
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

    try:
        whole = hashlib.sha256()
        sent = in_parallel(_parts(path, size, whole, send), bucket.settings.workers)
        if whole.hexdigest() != sha256:
            raise changed(path)
        try:
            with bucket.doing("written", key):
                bucket.client.complete_multipart_upload(**target, MultipartUpload={"Parts": sent})
        except NotFoundError:
            # A completed upload is gone: so it is when boto asks again because the first answer was lost.
            found = bucket.head(key)
            if found is None or found[0] != size or found[1].get("sha256") != sha256:
                raise
    except BaseException:
        with suppress(RegistryError):
            abort(bucket, key, target["UploadId"])
        raise


def _parts(
    path: Path, size: int, whole: Any, send: Callable[[int, bytes], dict[str, Any]]
) -> Iterator[Callable[[], dict[str, Any]]]:
    """The sending of each part of a file, which is read as they are drawn; `whole` gets every byte."""
    part_size = max(PART, math.ceil(size / MAX_PARTS))
    with path.open("rb") as file:
        for number in range(1, MAX_PARTS + 1):
            data = file.read(part_size)
            if not data:
                return
            whole.update(data)
            yield lambda number=number, data=data: send(number, data)  # type: ignore[misc]


def uploads(bucket: Bucket, prefix: str) -> Sequence[Upload]:
    """Multipart uploads in progress or abandoned, of keys that start with `prefix`."""
    with bucket.doing("listed", prefix):
        pages = bucket.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket.bucket, Prefix=prefix)
        return [
            Upload(item["Key"], item["UploadId"], item["Initiated"])
            for page in pages
            for item in page.get("Uploads", [])
            if item["Key"].startswith(prefix)
        ]


def abort(bucket: Bucket, key: str, upload_id: str) -> None:
    """Give up a multipart upload; it may be gone already."""
    with suppress(NotFoundError), bucket.doing("removed", key):
        bucket.client.abort_multipart_upload(Bucket=bucket.bucket, Key=key, UploadId=upload_id)


def changed(path: Path) -> DataError:
    """What is raised of a file that is not the one that was to be uploaded."""
    return DataError(f"{path} changed while it was uploaded: nothing was published; publish again.")
