"""A model from wherever it lies: a folder, or a registry. All places that a model may be named by are known here."""

from pathlib import Path

from cascadexml.artifact.artifact import Artifact, open_artifact
from cascadexml.errors import DataError
from cascadexml.progress import Progress, silent


def open_model(place: str | Path, progress: Progress = silent) -> Artifact:
    """Open the model at `place`, every byte of it verified.

    Args:
        place: a folder; or `s3://bucket/prefix/name@ref` in a registry, where `ref` is an alias (champion if it is left
            out) or a version, or a version's own URI, `s3://bucket/prefix/name/versions/v-…`: that one is pulled into
            the cache, unless it is there.
        progress: called with ("pull", bytes done, bytes in all, {}).

    Raises:
        DataError: `place` is a URI of another kind.
        RegistryError: the registry cannot be read, or has no such model.
        FormatError: what lies there is damaged, of another version or, with `CASCADEXML_VERIFY_KEY` set, not signed.
    """
    if str(place).startswith("s3://"):
        from cascadexml.registry.registry import Registry
        from cascadexml.registry.uris import parse_uri

        uri = parse_uri(str(place))
        return Registry(uri.registry).open(uri.name, uri.ref, progress=progress)
    if "://" in str(place):
        raise DataError(f"{place} is no place for artifacts: expected a folder, or s3://bucket/prefix/name@champion.")
    return open_artifact(Path(place))
