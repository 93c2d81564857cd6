"""Unpacking archives that nobody vouches for: whole or not at all, and nothing outside their folder."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from cascadexml.bundle import beside
from cascadexml.errors import DataError
from cascadexml.storage.safe_path import safe_path

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
"""How their names end."""
BLOCK = 1 << 20
# Text packs some 3 to 20 times; an archive that unpacks to far more is there to fill the disk.
MAX_RATIO = 200
MIN_UNPACKED_LIMIT = 1 << 30


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
        with beside(folder) as new:
            new.mkdir()
            for name, content in members(archive):
                target = new / safe_path(name, str(archive))
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
