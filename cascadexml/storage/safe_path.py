"""Paths from outside that are to become files here."""

from pathlib import PurePosixPath

from cascadexml.errors import DataError


def safe_path(name: str, where: str) -> PurePosixPath:
    """A path that an archive or a bucket gives, if it stays inside the folder that it is to be written to.

    Args:
        name: the path.
        where: what it came from, for the message.

    Raises:
        DataError: it is absolute, leads upwards, or may do so on some system.
    """
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
