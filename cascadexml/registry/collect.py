"""Removing what nobody needs, so that no publisher and no promoter is left with half of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Literal

from cascadexml.bundle import MANIFEST
from cascadexml.registry.aliases import Aliases, roll_back_target
from cascadexml.registry.place import Place
from cascadexml.registry.removal import REMOVING, is_tombstone, tombstone
from cascadexml.registry.versions import Versions
from cascadexml.storage.object_store import Entry
from cascadexml.storage.parallel import in_parallel


@dataclass(frozen=True)
class Removed:
    """What `gc` removed, or would remove.

    Attributes:
        what: "incomplete version", "old version" or "upload".
        uri: where it lay.
        size: bytes; 0 for an upload, whose parts the store does not list.
        newest: when it was last written to.
    """

    what: Literal["incomplete version", "old version", "upload"]
    uri: str
    size: int
    newest: datetime


class Collector:
    """Whoever clears up in a registry."""

    def __init__(self, place: Place, versions: Versions, aliases: Aliases) -> None:
        self._place = place
        self._store = place.store
        self._versions = versions
        self._aliases = aliases

    def collect(self, name: str, limit: datetime, keep: int | None, dry_run: bool) -> Iterator[Removed]:
        """Remove of one model what was last written to before `limit` and is not needed; see `Registry.gc`."""
        base = self._place.versions(name)
        for upload in self._store.uploads(base):
            if upload.begun <= limit:
                if not dry_run:
                    self._store.abort(upload)
                yield Removed("upload", self._store.uri(upload.key), 0, upload.begun)
        complete = self._versions.of(name)
        old = complete[: max(0, len(complete) - keep)] if keep is not None else []
        too_many = {version.version for version in old if version.created <= limit} - self._needed(name)
        for version in self._store.folders(base):
            prefix = f"{base}{version}/"
            entries = self._place.files(prefix)
            if not entries:
                continue
            has_manifest = MANIFEST in entries and not is_tombstone(self._store.get(prefix + MANIFEST).data)
            if has_manifest:
                # A mark that is still there is that of a `gc` that died.
                marked = REMOVING in entries and entries[REMOVING].modified <= limit
                if (version in too_many or marked) and (dry_run or self._retire(name, version)):
                    yield _removed("old version", self._store.uri(prefix), entries)
            elif max(entry.modified for entry in entries.values()) <= limit and (dry_run or self._sweep(prefix, limit)):
                yield _removed("incomplete version", self._store.uri(prefix), entries)

    def _needed(self, name: str) -> set[str]:
        """The versions that aliases name, and those that roll-backs would go to."""
        moves = self._aliases.of(name).values()
        return {m[-1].target for m in moves} | {back for m in moves if (back := roll_back_target(m)) is not None}

    def _retire(self, name: str, version: str) -> bool:
        """Remove a complete version, unless an alias takes it up meanwhile.

        First a mark is set, then the aliases are read again. Who promotes does it the other way round: first the alias,
        then a look for the mark. One of the two sees the other.
        """
        prefix = self._place.version(name, version)
        self._store.put(prefix + REMOVING, b"{}")
        if version in self._needed(name):
            self._store.delete(prefix + REMOVING)
            return False
        self._store.delete(prefix + MANIFEST)
        return self._sweep(prefix, None)

    def _sweep(self, prefix: str, limit: datetime | None) -> bool:
        """Remove a version without a manifest, in such a way that no publisher can complete it meanwhile.

        A tombstone takes the manifest's place, where only one of both can be. It goes last.
        """
        if not self._store.put_if_absent(prefix + MANIFEST, tombstone()):
            there = self._store.get(prefix + MANIFEST)
            if not is_tombstone(there.data):
                return False
        entries = self._place.files(prefix)
        own = entries.pop(MANIFEST, None)
        if limit is not None and any(entry.modified > limit for entry in entries.values()):
            self._store.delete(prefix + MANIFEST)
            return False
        deletions = (partial(self._store.delete, e.key) for e in entries.values())
        in_parallel(deletions, self._place.settings.workers)
        if own is not None:
            self._store.delete(prefix + MANIFEST)
        return True


def _removed(what: Literal["incomplete version", "old version"], uri: str, entries: Mapping[str, Entry]) -> Removed:
    newest = max(entry.modified for entry in entries.values())
    return Removed(what, uri.rstrip("/"), sum(entry.size for entry in entries.values()), newest)
