"""What differs between two versions of a model."""

from collections.abc import Mapping
from typing import Any

from cascadexml.data.vocabulary import Vocabulary
from cascadexml.registry.versions import Version


def difference(one: Version, other: Version) -> dict[str, Any]:
    """What two versions say of themselves that differs, all but the labels; see `Registry.diff`."""
    found: dict[str, Any] = {"one": one.version, "other": other.version}
    for key in ("params", "metrics", "libraries"):
        a, b = _flat(one.meta.get(key, {})), _flat(other.meta.get(key, {}))
        found[key] = {k: [a.get(k), b.get(k)] for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)}
    for key in ("data_fingerprint", "git_revision", "dvc_lock"):
        pair = [one.meta.get(key), other.meta.get(key)]
        found[key] = pair if pair[0] != pair[1] else None
    return found


def label_changes(one: Vocabulary, other: Vocabulary) -> dict[str, Any]:
    """Labels "added", "removed" and "renamed" among those that the models rank."""
    a, b = (dict(map(v.label, range(v.L))) for v in (one, other))
    renamed = {label: [a[label], b[label]] for label in sorted(a.keys() & b.keys()) if a[label] != b[label]}
    return {"added": sorted(b.keys() - a.keys()), "removed": sorted(a.keys() - b.keys()), "renamed": renamed}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
