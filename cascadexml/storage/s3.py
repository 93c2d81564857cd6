"""Boto3's client, and its errors in words. What boto says itself is never shown: it may hold what is secret."""

from collections.abc import Generator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from cascadexml.storage.addresses import public_name
from cascadexml.storage.retry import Interrupted

BLOCK = 1 << 20


class EndpointError(ValueError):
    """The endpoint that boto3 found is no address of an S3 server; the message is a clause without secrets."""


def s3_client(**options: Any) -> Any:
    """An S3 client of boto3's own chain, which finds endpoint, region and credentials.

    Args:
        options: of `botocore.config.Config`.

    Raises:
        ImportError: boto3 is not installed.
        EndpointError: AWS_ENDPOINT_URL, or what stands for it in ~/.aws/config, is malformed or holds a password.
        BotoCoreError: the AWS configuration is wrong in another way.
    """
    import boto3
    from botocore.config import Config

    try:
        # A session of its own: the default one remembers credentials for the life of the process.
        client = boto3.session.Session().client("s3", config=Config(**options))
    except ValueError:
        raise EndpointError("the endpoint is no URL; check AWS_ENDPOINT_URL") from None
    _check_endpoint(client.meta.endpoint_url)
    return client


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound:
        raise EndpointError("the endpoint is no http(s)://host or http(s)://host:port; check AWS_ENDPOINT_URL")
    # S3 takes none of these; boto would write them into its errors and logs.
    if "@" in endpoint or parts.query or parts.fragment:
        raise EndpointError(
            "the endpoint holds more than http(s)://host:port, such as a password or a signature; take it out of "
            "AWS_ENDPOINT_URL, credentials go into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )


def blocks_of(body: Any) -> Generator[bytes, None, None]:
    """The bytes of an answer, as they come in; the connection is given back when the iterator is closed.

    Raises:
        Interrupted: the connection broke, or a checksum of boto's own tells that the bytes were damaged. Its cause is
            boto's error.
    """
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    with closing(body):
        try:
            yield from body.iter_chunks(BLOCK)
        except (BotoCoreError, HTTPError, OSError) as error:
            raise Interrupted(type(error).__name__) from error


def is_missing(error: BaseException) -> bool:
    """Whether the server says that there is no such object."""
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError):
        return False
    code, status = _code_and_status(error)
    return code not in _CODES and (code in ("NoSuchKey", "NoSuchVersion") or status == 404)


def reason(error: BaseException, endpoint: str | None) -> str:
    """Why boto failed and what to do, as a clause without secrets.

    Args:
        error: what boto raised, an OSError, or an EndpointError.
        endpoint: of the client; None where there is none yet.
    """
    from botocore import exceptions as boto

    at = f" at {public_name(endpoint)}" if endpoint else ""
    if isinstance(error, boto.ClientError):
        return _refusal(error)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if isinstance(error, boto.CredentialRetrievalError | boto.TokenRetrievalError | boto.SSOError):
        return "the credentials cannot be fetched or have expired; log in again"
    if isinstance(error, boto.ProfileNotFound | boto.ConfigNotFound | boto.ConfigParseError):
        return "the AWS configuration lacks what AWS_PROFILE names; check it"
    if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError | TimeoutError):
        return f"the server{at} did not answer in time; check network and AWS_ENDPOINT_URL"
    if isinstance(error, boto.SSLError):
        return f"the server{at} has no valid certificate; check AWS_ENDPOINT_URL and AWS_CA_BUNDLE"
    if isinstance(error, boto.HTTPClientError | boto.EndpointConnectionError | boto.ConnectionError | OSError):
        return f"the server{at} cannot be reached ({type(error).__name__}); check network and AWS_ENDPOINT_URL"
    if isinstance(error, boto.FlexibleChecksumError | boto.IncompleteReadError):
        return "its bytes were damaged on the way; try again"
    if isinstance(error, EndpointError):
        return str(error)
    if isinstance(error, boto.ParamValidationError):
        return "it is no valid name for a bucket or object; check the URI"
    return f"{type(error).__name__}; check the AWS_ variables and ~/.aws/config"


_CODES = {
    "NoSuchBucket": "the bucket does not exist; create it, or check the URI and AWS_ENDPOINT_URL",
    "InvalidAccessKeyId": "the server does not know this access key; check AWS_ACCESS_KEY_ID or AWS_PROFILE",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key; check AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "the credentials have expired; get new ones",
    "InvalidToken": "the session token is not valid; check AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    "RequestExpired": "this machine's clock is wrong; set it",
    "AuthorizationHeaderMalformed": "the region is wrong; set AWS_DEFAULT_REGION to the bucket's",
    "PermanentRedirect": "the bucket lies in another region; set AWS_DEFAULT_REGION to it",
    "BadDigest": "the bytes were damaged on the way; try again",
    "XAmzContentSHA256Mismatch": "the bytes were damaged on the way; try again",
    "InvalidBucketName": "this is no bucket's name; check the URI",
}


def _code_and_status(error: Any) -> tuple[str, int]:
    response = error.response
    code = str(response.get("Error", {}).get("Code", "unknown"))
    return code, int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _refusal(error: Any) -> str:
    code, status = _code_and_status(error)
    if code in _CODES:
        return _CODES[code]
    if is_missing(error):
        return "there is no such object"
    if status == 403:
        return "access denied; check the credentials, or get them the rights that docs/registry.md lists"
    if status in (429, 503) or status >= 500:
        return f"the server is failing or overloaded ({status} {code}); try again later"
    return f"the server refused it ({status} {code}); check bucket, key and settings"
