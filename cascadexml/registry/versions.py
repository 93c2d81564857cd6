"""The versions in a registry as readers see them: whole, signed as asked, or not at all."""

import hashlib
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cascadexml.artifact import signing
from cascadexml.artifact.signing import SIGNATURE
from cascadexml.bundle import MANIFEST, Bundle
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import FormatError, NotFoundError
from cascadexml.progress import Progress
from cascadexml.registry.cache import Cache
from cascadexml.registry.manifest import Manifest, check_listing, read_manifest
from cascadexml.registry.place import Place
from cascadexml.registry.removal import REMOVING, being_removed, is_tombstone
from cascadexml.registry.uris import NAME, VERSION_NAME
from cascadexml.storage.parallel import in_parallel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Version:
    """A published artifact.

    Attributes:
        name: the model's.
        version: "v-" and the first 12 digits of `fingerprint`.
        uri: s3://bucket/prefix/name/versions/version
        created: when its manifest was written.
        fingerprint: SHA-256 of its manifest's bytes.
        meta: what the artifact tells of itself: params, metrics, libraries, fingerprints.
        files: path → {"sha256", "size"}.
        by: who published it, as far as they said.
    """

    name: str
    version: str
    uri: str
    created: datetime
    fingerprint: str
    meta: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    by: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["size"]) for entry in self.files.values())


class Versions:
    """The versions in a registry."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._store = place.store

    def read(self, name: str, version: str) -> tuple[Version, Manifest]:
        """Read and check the manifest of a version.

        Raises:
            NotFoundError: there is no complete version of this name, or it is being removed.
            FormatError: its manifest is damaged, of a newer format, or not signed as asked.
        """
        prefix = self._place.version(name, version)
        try:
            blob = self._store.get(prefix + MANIFEST)
        except NotFoundError:
            raise NotFoundError(
                f"{self._place.uri}/{name} has no version {version}: cascadexml registry list {name} shows those there "
                "are."
            ) from None
        where = self._store.uri(prefix + MANIFEST)
        if is_tombstone(blob.data):
            raise being_removed(self._store.uri(prefix))
        manifest = read_manifest(blob.data, where)
        if manifest.version != version:
            raise FormatError(f"{where} is not the manifest that the version is called by: do not trust it.")
        if self._place.verify_key is not None:
            try:
                signature = self._store.get(prefix + SIGNATURE).data
            except NotFoundError:
                signature = None
            signing.verify(blob.data, signature, self._place.verify_key, where)
        uri = self._store.uri(prefix.rstrip("/"))
        by = unquote(blob.metadata["by"]) if "by" in blob.metadata else None
        return Version(name, version, uri, blob.modified, manifest.sha256, manifest.meta, manifest.files, by), manifest

    def names(self) -> list[str]:
        """The models that have at least one complete version, sorted."""
        found = [name for name in self._store.folders(self._place.prefix) if NAME.fullmatch(name)]
        return [name for name in found if any(self._read_or_none(name, v) for v in self._complete(name))]

    def of(self, name: str) -> list[Version]:
        """The complete versions of a model, oldest first; one with a damaged manifest is left out, which is logged."""
        read = partial(partial, self._read_or_none, name)
        found = in_parallel(map(read, self._complete(name)), self._place.settings.workers)
        return sorted((v for v in found if v is not None), key=lambda v: (v.created, v.version))

    def _complete(self, name: str) -> list[str]:
        """The versions of a model that have a manifest and are not being removed."""
        base = self._place.versions(name)
        parts = [entry.key.removeprefix(base).split("/") for entry in self._store.list(base)]
        ends = {end: {p[0] for p in parts if p[1:] == [end]} for end in (MANIFEST, REMOVING)}
        return sorted(v for v in ends[MANIFEST] - ends[REMOVING] if VERSION_NAME.fullmatch(v))

    def _read_or_none(self, name: str, version: str) -> Version | None:
        try:
            return self.read(name, version)[0]
        except NotFoundError:
            return None
        except FormatError as error:
            log.warning("left out: %s", error)
            return None

    def check_whole(self, name: str, version: str) -> None:
        """Refuse a version that is not complete in the store.

        Raises:
            NotFoundError: there is no such version, or it is being removed.
            FormatError: a file of it is missing or of another size.
        """
        if not VERSION_NAME.fullmatch(version):
            raise NotFoundError(f"{version!r} is no version of {name}: expected v- and 12 hex digits.")
        found, manifest = self.read(name, version)
        entries = self._place.files(self._place.version(name, version))
        if REMOVING in entries:
            raise being_removed(found.uri)
        check_listing(manifest, entries, found.uri + "/")

    def pull(self, version: Version, manifest: Manifest, cache: Cache, progress: Progress) -> Bundle:
        """Bring a version that was just read into the cache, unless it is there and whole; gives it verified.

        Raises:
            NotFoundError: it is being removed.
            FormatError: what lies in the store is not what the manifest says.
        """
        found = cache.find(manifest)
        if found is not None:
            return found
        prefix = self._place.version(version.name, version.version)
        entries = self._place.files(prefix)
        if REMOVING in entries:
            raise being_removed(version.uri)
        check_listing(manifest, entries, self._store.uri(prefix))
        return cache.fetch(manifest, self._store, {n: entries[n] for n in manifest.files}, progress)

    def vocabulary(self, version: Version) -> Vocabulary:
        """The labels of a version, checked, without the rest of it.

        Raises:
            FormatError: what lies in the store is not what the manifest says.
        """
        key = self._place.version(version.name, version.version) + "vocabulary.json"
        data = self._store.get(key).data
        if hashlib.sha256(data).hexdigest() != version.files.get("vocabulary.json", {}).get("sha256"):
            raise FormatError(f"{self._store.uri(key)} differs from the SHA-256 in its manifest: publish it again.")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "vocabulary.json"
            file.write_bytes(data)
            return Vocabulary.load(file, digest=False)
