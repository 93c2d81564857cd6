"""Bringing an artifact into the registry, whole or not at all."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

from cascadexml.artifact import signing
from cascadexml.artifact.artifact import open_artifact
from cascadexml.artifact.signing import SIGNATURE
from cascadexml.bundle import MANIFEST
from cascadexml.errors import ConflictError
from cascadexml.progress import Progress
from cascadexml.registry.cache import meter
from cascadexml.registry.manifest import check_listing, read_manifest
from cascadexml.registry.place import Place, myself
from cascadexml.registry.removal import REMOVING, being_removed, is_tombstone
from cascadexml.registry.uris import checked_name
from cascadexml.storage.object_store import Entry
from cascadexml.storage.parallel import in_parallel

log = logging.getLogger(__name__)


class Publication:
    """An artifact on its way into a registry.

    Args:
        place: the registry's.
        folder: an artifact; every byte of it is verified here.
        name: the model's name; None for the artifact's own.

    Attributes:
        name: the model's name.
        version: what the version is called.

    Raises:
        FormatError: `folder` is no artifact, or is damaged.
        DataError: the name cannot be a model's.
    """

    def __init__(self, place: Place, folder: Path, name: str | None) -> None:
        self._place = place
        self._store = place.store
        self._folder = open_artifact(folder).path
        self._data = (self._folder / MANIFEST).read_bytes()
        self._manifest = read_manifest(self._data, str(self._folder / MANIFEST))
        self.name = checked_name(name or str(self._manifest.meta["name"]), "a model's name")
        self.version = self._manifest.version
        self._prefix = place.version(self.name, self.version)

    def run(self, by: str | None, progress: Progress) -> None:
        """Bring up what is not there, and the manifest last.

        Raises:
            DataError: a file changed meanwhile.
            ConflictError: a `gc` is removing what is left of an earlier attempt.
        """
        place, store, prefix = self._place, self._store, self._prefix
        entries = place.files(prefix)
        committed = self._is_committed(entries)
        signature = self._signature(entries)
        self._upload(entries, committed, progress)
        entries = place.files(prefix)
        # Read last of all before the commit: a `gc` that works here either shows, or finds a file too young to remove.
        committed = self._is_committed(entries)
        check_listing(self._manifest, entries, store.uri(prefix))
        if signature is not None and not (SIGNATURE in entries and signature == store.get(prefix + SIGNATURE).data):
            store.put(prefix + SIGNATURE, signature, retain=True)
        who = {"by": quote(by or myself(), safe=" @.")}
        if not committed and not store.put_if_absent(prefix + MANIFEST, self._data, retain=True, metadata=who):
            # Another publisher's, or this very write's whose answer was lost: the bytes say whether it is the same.
            self._is_committed(place.files(prefix))
        log.info("published %s as %s", self._folder, store.uri(prefix))

    def _is_committed(self, entries: Mapping[str, Entry]) -> bool:
        """Whether the version is complete with this manifest.

        Raises:
            ConflictError: it is being removed, or another manifest is there.
        """
        uri = self._store.uri(self._prefix)
        if REMOVING in entries:
            raise being_removed(uri, ConflictError)
        if MANIFEST not in entries:
            return False
        there = self._store.get(self._prefix + MANIFEST).data
        if there == self._data:
            return True
        if is_tombstone(there):
            raise being_removed(uri, ConflictError)
        raise ConflictError(f"{uri} holds another manifest: use another name for this model.")

    def _signature(self, entries: Mapping[str, Entry]) -> bytes | None:
        """The signature that the version is to have; refused here if no reader with this verify key would take it."""
        sign_key, verify_key = self._place.settings.sign_key, self._place.verify_key
        signature = signing.sign(self._data, Path(sign_key)) if sign_key else None
        if verify_key is not None:
            there = self._store.get(self._prefix + SIGNATURE).data if SIGNATURE in entries else None
            signing.verify(self._data, signature or there, verify_key, self._store.uri(self._prefix + MANIFEST))
        return signature

    def _upload(self, entries: Mapping[str, Entry], committed: bool, progress: Progress) -> None:
        """Bring up what is not there. Small files go side by side, then large ones, each in parts side by side."""
        files, store = self._manifest.files, self._store
        tell = meter("publish", self._manifest.size, progress)
        sizes = {name: int(entry["size"]) for name, entry in files.items()}

        def is_there(name: str) -> bool:
            if name not in entries or entries[name].size != sizes[name]:
                return False
            if committed:
                return True
            found = store.head(self._prefix + name)
            return found is not None and found[1].get("sha256") == files[name]["sha256"]

        def bring(name: str) -> None:
            if name != youngest and is_there(name):
                tell(sizes[name])
            else:
                store.upload(self._folder / name, self._prefix + name, str(files[name]["sha256"]), tell)

        # One file is always written anew, so that no `gc` takes this attempt for one that was given up long ago.
        youngest = None if committed else min(sizes, key=lambda name: sizes[name])
        small = [name for name in sizes if not store.goes_in_parts(sizes[name])]
        in_parallel((partial(bring, name) for name in small), self._place.settings.workers)
        for name in sorted(set(sizes) - set(small)):
            bring(name)
