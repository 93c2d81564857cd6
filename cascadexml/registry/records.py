"""What was found out about a model, kept beside its versions: for good, and whole once its record.json is there."""

from collections.abc import Mapping
from pathlib import Path

from cascadexml.errors import DataError, NotFoundError
from cascadexml.registry.manifest import is_safe_name
from cascadexml.registry.place import Place

RECORD = "record.json"


class Records:
    """The records in a registry."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._store = place.store

    def put(self, name: str, kind: str, key: str, files: Mapping[str, bytes | Path]) -> str:
        """Write a record and give its URI; see `Registry.put_record`."""
        prefix = self._place.record(name, kind, key)
        if RECORD not in files:
            raise DataError(f"{self._store.uri(prefix)} needs a {RECORD}: add it to the files.")
        for path in files:
            if not is_safe_name(path):
                raise DataError(f"{self._store.uri(prefix)} cannot hold {path!r}: expected a path below it.")
        content = {path: files[path] for path in (*sorted(set(files) - {RECORD}), RECORD)}
        differs = DataError(f"{self._store.uri(prefix)} holds another record: records never change, use another key.")
        is_complete = self._store.head(prefix + RECORD) is not None
        if is_complete and set(self._place.files(prefix)) != set(files):
            raise differs
        for path, given in content.items():
            data = given.read_bytes() if isinstance(given, Path) else given
            if self._store.put_if_absent(prefix + path, data, retain=True):
                continue
            there = self._store.get(prefix + path)
            if there.data == data:
                continue
            if path == RECORD or self._store.head(prefix + RECORD) is not None:
                raise differs
            # Left by an attempt that broke off before its record.json.
            self._store.replace_if(prefix + path, data, there.etag)
        return self._store.uri(prefix.rstrip("/"))

    def keys(self, name: str, kind: str) -> list[str]:
        """The keys of a model's complete records of a kind, oldest first."""
        prefix = self._place.records(name, kind)
        ends = [entry for entry in self._store.list(prefix) if entry.key.count("/") == prefix.count("/") + 1]
        found = [entry for entry in ends if entry.key.endswith(f"/{RECORD}")]
        return [e.key.removeprefix(prefix).split("/")[0] for e in sorted(found, key=lambda e: (e.modified, e.key))]

    def read(self, name: str, kind: str, key: str, file: str) -> bytes:
        """One file of a complete record.

        Raises:
            NotFoundError: there is no such record, or no such file in it.
        """
        prefix = self._place.record(name, kind, key)
        if file != RECORD and self._store.head(prefix + RECORD) is None:
            raise NotFoundError(f"{self._store.uri(prefix)} is no complete record: it has no {RECORD}.")
        return self._store.get(prefix + file).data
