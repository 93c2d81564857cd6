"""The manifest of a version: read and checked before anything that it names is touched."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from cascadexml.artifact.formats import ARTIFACT
from cascadexml.artifact.signing import SIGNATURE
from cascadexml.bundle import MANIFEST
from cascadexml.errors import FormatError
from cascadexml.storage.object_store import Entry


@dataclass(frozen=True)
class Manifest:
    """A manifest that names only files that may be fetched.

    Attributes:
        data: its bytes.
        sha256: of these bytes, 64 hex digits.
        meta: what the artifact tells of itself.
        files: path in the artifact → {"sha256", "size"}.
    """

    data: bytes
    sha256: str
    meta: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def version(self) -> str:
        """The name of the version that it makes."""
        return f"v-{self.sha256[:12]}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["size"]) for entry in self.files.values())


def read_manifest(data: bytes, where: str) -> Manifest:
    """Check an artifact's manifest before anything that it names is touched.

    Raises:
        FormatError: it is no well-formed manifest of an artifact, of another version, names a file twice, or names a
            path that is absolute, leads outside its folder, or goes through another file.
    """
    try:
        content = json.loads(data, object_pairs_hook=_without_duplicates)
        kind, version, meta, files = (content[key] for key in ("kind", "version", "meta", "files"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{where} cannot be read as a manifest ({error!r}): publish the artifact again.") from None
    ARTIFACT.check(kind, version, where)
    if not isinstance(meta, dict) or not isinstance(files, dict):
        raise FormatError(f"{where} is not a well-formed manifest: publish the artifact again.")
    for name, entry in files.items():
        if not is_safe_name(name) or any(parent.as_posix() in files for parent in PurePosixPath(name).parents):
            raise FormatError(f"{where} names {name!r}, which may lead outside its folder: do not trust it.")
        well_formed = (
            isinstance(entry, dict)
            and type(entry.get("size")) is int
            and entry["size"] >= 0
            and re.fullmatch("[0-9a-f]{64}", str(entry.get("sha256"))) is not None
        )
        if not well_formed:
            raise FormatError(f"{where} has no size and SHA-256 for {name!r}: publish the artifact again.")
    return Manifest(data, hashlib.sha256(data).hexdigest(), meta, files)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def is_safe_name(name: str) -> bool:
    """Whether a path in a manifest or record leads to a file below its folder, on any system."""
    path = PurePosixPath(name)
    return (
        name == path.as_posix()
        and name not in (MANIFEST, SIGNATURE, ".")
        and not path.is_absolute()
        and ".." not in path.parts
        and re.search(r'[\x00-\x1f\x7f\\:*?"<>|]', name) is None
    )


def check_listing(manifest: Manifest, entries: Mapping[str, Entry], where: str) -> None:
    """Compare a version in the store, file name → entry, with its manifest, before a byte is fetched.

    Raises:
        FormatError: a file is missing, of another size, or not in the manifest.
    """
    for name, entry in manifest.files.items():
        if name not in entries:
            raise FormatError(f"{where}{name} is in the manifest but not in the store: publish the artifact again.")
        if entries[name].size != entry["size"]:
            raise FormatError(
                f"{where}{name} has {entries[name].size} bytes, the manifest says {entry['size']}: "
                "publish the artifact again."
            )
    strangers = sorted(set(entries) - set(manifest.files) - {MANIFEST, SIGNATURE})
    if strangers:
        raise FormatError(f"{where}{strangers[0]} is not in the manifest: remove it, or do not trust the version.")
