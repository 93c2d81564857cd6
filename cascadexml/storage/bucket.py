"""A bucket and a client for it: how its objects are called, and boto's errors as the library's."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from cascadexml.config import RegistrySettings
from cascadexml.errors import NotFoundError, RegistryError
from cascadexml.storage.retry import Interrupted
from cascadexml.storage.s3 import EndpointError, is_missing, reason, s3_client

Tell = Callable[[int], None]
"""Called with numbers of bytes as they have arrived, from any thread."""


class Bucket:
    """One bucket.

    Args:
        bucket: its name.
        settings: timeouts, attempts, encryption, retention.

    Raises:
        RegistryError: boto3 is not installed, or its configuration is wrong.
    """

    def __init__(self, bucket: str, settings: RegistrySettings) -> None:
        try:
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise RegistryError('s3:// needs boto3, which is not installed: pip install "cascadexml[s3]".') from None
        self.bucket = bucket
        self.settings = settings
        try:
            self.client: Any = s3_client(
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
    def doing(self, what: str, key: str) -> Iterator[None]:
        """Turn boto's errors into the library's; `what` completes "s3://… cannot be".

        Raises:
            NotFoundError: there is no such object or bucket.
            RegistryError: anything else; one sentence with the object's URI and no secret.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (ClientError, BotoCoreError, OSError, Interrupted) as error:
            cause = error.__cause__ if isinstance(error, Interrupted) and error.__cause__ else error
            raise _sentence(cause, self.uri(key), what, self.client.meta.endpoint_url) from None

    def head(self, key: str) -> tuple[int, Mapping[str, str]] | None:
        """Size and user metadata of an object; None where there is none."""
        try:
            with self.doing("read", key):
                answer = self.client.head_object(Bucket=self.bucket, Key=key)
        except NotFoundError:
            return None
        return answer["ContentLength"], answer.get("Metadata", {})

    def protection(self, retain: bool) -> dict[str, Any]:
        """Arguments of a write: the encryption, and for what is to stay the retention."""
        extra: dict[str, Any] = {}
        if self.settings.encryption != "none":
            extra["ServerSideEncryption"] = self.settings.encryption
        if self.settings.kms_key_id is not None:
            extra["SSEKMSKeyId"] = self.settings.kms_key_id
        if retain and self.settings.object_lock_days:
            until = datetime.now(UTC) + timedelta(days=self.settings.object_lock_days)
            extra |= {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
        return extra


def status_of(error: BaseException) -> int | None:
    """The HTTP status that a server's refusal came with; None of any other error."""
    response = getattr(error, "response", {})
    status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def _sentence(error: BaseException, uri: str, what: str, endpoint: str | None) -> RegistryError:
    kind = NotFoundError if is_missing(error) else RegistryError
    return kind(f"{uri} cannot be {what}: {reason(error, endpoint)}.")
