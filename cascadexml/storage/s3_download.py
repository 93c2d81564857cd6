"""Fetching from s3://: one object, or all below a prefix."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from cascadexml.errors import DataError
from cascadexml.progress import Progress
from cascadexml.storage import retry
from cascadexml.storage.addresses import public_name
from cascadexml.storage.resume import Stream, download
from cascadexml.storage.retry import Interrupted
from cascadexml.storage.s3 import EndpointError, blocks_of, reason, s3_client
from cascadexml.storage.safe_path import safe_path


def fetch_s3(source: str, folder: Path, show: Progress) -> Path:
    """Bring one object, or all below a prefix, to `folder`/files, and remove what is left there of other objects.

    Args:
        source: s3://bucket/key
        folder: where downloads go; kept, so that a later call can resume.
        show: called with bytes done and in all.

    Returns:
        The file, or the folder of files.

    Raises:
        DataError: there is no such object, the bucket cannot be read, or it breaks off again and again.
    """
    name = public_name(source)
    bucket, key = urlsplit(source, allow_fragments=False).netloc, source.partition("://")[2].partition("/")[2]
    if not bucket:
        raise DataError(f"{name} names no bucket: expected s3://bucket/key.")
    if "@" in bucket:
        raise DataError(f"{name} was given with a password: take it out, AWS_SECRET_ACCESS_KEY is the place for it.")
    client, keys = _listing(bucket, key, name)
    files, state = folder / "files", folder / "state"
    if key in keys and not key.endswith("/"):
        wanted = {key: files / PurePosixPath(key).name}
    else:
        prefix = f"{key.rstrip('/')}/" if key else ""
        below = [k for k in keys if k.startswith(prefix) and not k.endswith("/")]
        wanted = {k: files / safe_path(k.removeprefix(prefix), name) for k in below}
    if not wanted:
        raise DataError(f"{name} is neither an object nor a prefix with objects below it: check the key.")
    for each, target in wanted.items():
        one = _Object(client, bucket, each)
        download(one.open, target, state / target.relative_to(files).parent, one.uri, show)
    for stale in set(files.rglob("*")) - set(wanted.values()):
        # An object that is gone from the prefix must not be read as a split.
        if stale.is_file():
            stale.unlink()
    return files / PurePosixPath(key).name if key in wanted else files


def _listing(bucket: str, prefix: str, name: str) -> tuple[Any, Sequence[str]]:
    """A client, and the keys that start with `prefix`."""
    from botocore.exceptions import BotoCoreError, ClientError

    endpoint = None
    try:
        client = s3_client(retries={"mode": "standard", "max_attempts": retry.ATTEMPTS})
        endpoint = client.meta.endpoint_url
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return client, [item["Key"] for page in pages for item in page.get("Contents", [])]
    except (BotoCoreError, ClientError, EndpointError) as error:
        raise DataError(f"{name} cannot be listed: {reason(error, endpoint)}.") from None


@dataclass(frozen=True)
class _Object:
    client: Any
    bucket: str
    key: str

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def open(self, start: int, validator: str | None, complete: bool) -> Stream:
        from botocore.exceptions import BotoCoreError, ClientError

        conditions: dict[str, Any] = {}
        if complete:
            conditions = {"IfNoneMatch": validator}
        elif start:
            conditions = {"IfMatch": validator, "Range": f"bytes={start}-"}
        try:
            answer = self.client.get_object(Bucket=self.bucket, Key=self.key, **conditions)
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status == 304:
                return Stream(0, None, validator, iter(()), unchanged=True)
            if status in (412, 416) and start:
                return self.open(0, None, False)
            said = reason(error, self.client.meta.endpoint_url)
            raise DataError(f"{self.uri} cannot be fetched: {said}.") from None
        except BotoCoreError as error:
            raise Interrupted(type(error).__name__) from None
        return Stream(start, start + answer["ContentLength"], answer["ETag"], blocks_of(answer["Body"]))
