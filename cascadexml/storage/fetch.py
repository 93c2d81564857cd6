"""Fetching a source: a local path, http(s):// or s3://, a file, a folder or an archive → local files."""

from pathlib import Path
from urllib.parse import urlsplit

from cascadexml.bundle import sha256_of
from cascadexml.errors import DataError
from cascadexml.progress import Progress, silent
from cascadexml.storage.addresses import public_name
from cascadexml.storage.archives import ARCHIVES, unpack
from cascadexml.storage.http import fetch_http
from cascadexml.storage.s3_download import fetch_s3


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
        path = fetch_http(source, folder, show)
    elif scheme == "s3":
        path = fetch_s3(source, folder, show)
    elif scheme:
        raise DataError(f"{public_name(source)} has the scheme {scheme!r}, expected a local path, http(s):// or s3://.")
    else:
        path = Path(source).expanduser()
        if not path.exists():
            raise DataError(
                f"{public_name(str(path))} does not exist: set download.source to a file, a folder, http(s):// or s3://."
            )
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
    found = sha256_of(path)
    if found != expected.strip().lower():
        if downloaded:
            path.unlink()
        raise DataError(f"{name} has SHA-256 {found}, expected {expected}: correct download.sha256 or the source.")
