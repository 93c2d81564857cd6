"""What all parts of the registry share: its place in a bucket, and which key holds what.

s3://BUCKET/PREFIX/NAME/versions/VERSION/…files…, manifest.json   an artifact, byte for byte
s3://BUCKET/PREFIX/NAME/aliases/ALIAS.json                        the version it names, and all its moves
s3://BUCKET/PREFIX/NAME/records/KIND/KEY/…files…, record.json     what was found out about a model
"""

import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from cascadexml.config import RegistrySettings
from cascadexml.registry.uris import checked_name
from cascadexml.storage.object_store import Entry, ObjectStore


@dataclass(frozen=True)
class Place:
    """Where a registry lies, and by which rules it is used.

    Attributes:
        uri: s3://bucket/prefix
        prefix: of all its keys; ends in "/", or is empty.
        store: the bucket.
        settings: of the user's own.
        verify_key: the public key that versions must be signed with; None for any or none.
    """

    uri: str
    prefix: str
    store: ObjectStore
    settings: RegistrySettings
    verify_key: Path | None

    def versions(self, name: str) -> str:
        """The prefix of all versions of a model."""
        return f"{self.prefix}{checked_name(name, 'a model')}/versions/"

    def version(self, name: str, version: str) -> str:
        """The prefix of one version's files."""
        return f"{self.versions(name)}{version}/"

    def aliases(self, name: str) -> str:
        """The prefix of a model's aliases."""
        return f"{self.prefix}{checked_name(name, 'a model')}/aliases/"

    def alias(self, name: str, alias: str) -> str:
        """The key of an alias."""
        return f"{self.aliases(name)}{alias}.json"

    def records(self, name: str, kind: str) -> str:
        """The prefix of a model's records of a kind."""
        return f"{self.prefix}{checked_name(name, 'a model')}/records/{checked_name(kind, 'a kind')}/"

    def record(self, name: str, kind: str, key: str) -> str:
        """The prefix of one record's files."""
        parts = (
            checked_name(name, "a model's name"),
            "records",
            checked_name(kind, "a record's kind"),
            checked_name(key, "a key"),
        )
        return f"{self.prefix}{'/'.join(parts)}/"

    def files(self, prefix: str) -> dict[str, Entry]:
        """What lies below a prefix: the rest of the key → its object."""
        return {entry.key.removeprefix(prefix): entry for entry in self.store.list(prefix)}


def myself() -> str:
    """Who works here, for all to read: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{socket.gethostname()}"
