"""What the model registry and all that lies in it are called: its URI, and names of models, versions and aliases."""

import re
from dataclasses import dataclass

from cascadexml.errors import DataError, RegistryError

VERSION_NAME = re.compile(r"v-[0-9a-f]{12}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SEGMENT = re.compile(r"[A-Za-z0-9!_.*'()~+=,-]+")


@dataclass(frozen=True)
class ModelURI:
    """Where a model lies: `s3://bucket/prefix`, the model's name, and an alias or a version."""

    registry: str
    name: str
    ref: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}@{self.ref}"


def parse_uri(uri: str) -> ModelURI:
    """Take `s3://bucket/prefix/name@ref` apart; without `@ref` the alias champion is meant.

    `s3://bucket/prefix/name/versions/v-…`, as a version is published at, is `s3://bucket/prefix/name@v-…`.

    Raises:
        RegistryError: it is no such URI.
    """
    place, _, last = uri.rpartition("/")
    if VERSION_NAME.fullmatch(last) and place.endswith("/versions"):
        place, _, name = place.removesuffix("/versions").rpartition("/")
        last = f"{name}@{last}"
    name, at, ref = last.partition("@")
    if not _is_place(place) or not NAME.fullmatch(name) or (at and not NAME.fullmatch(ref)):
        raise RegistryError(
            f"{uri} is no model's URI: expected s3://bucket/prefix/name@champion, or @v-… for a version."
        )
    return ModelURI(place, name, ref or "champion")


def _is_place(uri: str) -> bool:
    scheme, _, path = uri.partition("://")
    return scheme == "s3" and all(_SEGMENT.fullmatch(s) and s not in (".", "..") for s in path.split("/"))


def bucket_and_prefix(uri: str) -> tuple[str, str]:
    """Take `s3://bucket/prefix` apart: the bucket, and the prefix with a "/" at its end, or empty.

    Raises:
        RegistryError: it is no such URI.
    """
    if not _is_place(uri):
        raise RegistryError(f"{uri} is no registry's URI: expected s3://bucket/prefix.")
    bucket, *segments = uri.removeprefix("s3://").split("/")
    return bucket, "".join(f"{segment}/" for segment in segments)


def checked_name(name: str, what: str) -> str:
    """The name, if it can be a part of a key.

    Raises:
        DataError: it cannot; `what` says in the message what it was meant for.
    """
    if not NAME.fullmatch(name) or name.endswith("."):
        raise DataError(f"{name!r} cannot be {what}: expected letters, digits, '.', '_' or '-', at most 128.")
    return name


def checked_alias(alias: str) -> str:
    """The name, if it can be an alias's.

    Raises:
        DataError: it cannot.
    """
    if VERSION_NAME.fullmatch(alias):
        raise DataError(f"{alias!r} is a version's name and cannot be an alias: choose another.")
    return checked_name(alias, "an alias")
