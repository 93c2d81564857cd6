"""The marks that a `gc` sets on what it removes, and that whoever publishes, promotes or pulls looks for."""

import json
import secrets

from cascadexml.errors import NotFoundError, RegistryError

REMOVING = "removing.json"
_KIND = "cascadexml.removed"


def tombstone() -> bytes:
    """What takes a manifest's place while the version is removed; no two are equal."""
    return json.dumps({"kind": _KIND, "version": 1, "id": secrets.token_hex(16)}).encode()


def is_tombstone(data: bytes) -> bool:
    """Whether this lies in a manifest's place and is none."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("kind") == _KIND


def being_removed(uri: str, kind: type[RegistryError] = NotFoundError) -> RegistryError:
    """The error of who meets a version that is being removed."""
    return kind(f"{uri} is being removed by a gc: take another version, or run gc again to finish that, then publish.")
