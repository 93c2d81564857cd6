"""The registry's pure parts: URIs, an alias's past, what a manifest may say."""

import dataclasses
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascadexml.artifact.formats import ARTIFACT
from cascadexml.errors import FormatError, RegistryError
from cascadexml.registry import Registry
from cascadexml.registry.aliases import Move, roll_back_target
from cascadexml.registry.manifest import check_listing, read_manifest
from cascadexml.registry.uris import parse_uri
from cascadexml.storage.object_store import Entry

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True).filter(lambda n: not n.endswith("."))
SEGMENTS = st.from_regex(r"[A-Za-z0-9!_.*'()-]{1,12}", fullmatch=True).filter(lambda s: s not in (".", ".."))


@given(bucket=NAMES, prefix=st.lists(SEGMENTS, max_size=3), name=NAMES, ref=st.none() | NAMES)
def test_a_uri_comes_apart_into_what_it_was_made_of(bucket: str, prefix: list[str], name: str, ref: str | None) -> None:
    registry = "/".join([f"s3://{bucket}", *prefix])
    found = parse_uri(f"{registry}/{name}" + (f"@{ref}" if ref else ""))
    assert (found.registry, found.name, found.ref) == (registry, name, ref or "champion")
    assert parse_uri(str(found)) == found


@given(
    bucket=NAMES,
    prefix=st.lists(SEGMENTS, max_size=3),
    name=NAMES,
    digits=st.from_regex("[0-9a-f]{12}", fullmatch=True),
)
def test_a_versions_own_uri_names_that_version(bucket: str, prefix: list[str], name: str, digits: str) -> None:
    registry = "/".join([f"s3://{bucket}", *prefix])
    assert parse_uri(f"{registry}/{name}/versions/v-{digits}") == parse_uri(f"{registry}/{name}@v-{digits}")


@given(text=st.text(max_size=30) | st.text("s3:/@ab.-", max_size=30).map(lambda t: "s3://" + t))
def test_what_is_no_uri_is_refused_in_one_sentence(text: str) -> None:
    try:
        found = parse_uri(text)
    except RegistryError as error:
        assert str(error).startswith(text)
        return
    assert text in (str(found), str(found).removesuffix("@champion"))


@pytest.mark.parametrize(
    "uri",
    [
        "s3://name",
        "s3:///name",
        "s3://bucket//name",
        "s3://bucket/../name",
        "s3://bucket/a/./name@x",
        "s3://bucket/name@",
        "s3://bucket/name@a@b",
        "s3://bucket/name@a/b",
        "s3://bucket/na me",
        "s3://bucket/name\n",
        "S3://bucket/name",
        "s3://bucket/versions/v-0123456789ab",
        "https://bucket/name",
        "/bucket/name",
    ],
)
def test_these_uris_are_refused(uri: str) -> None:
    with pytest.raises(RegistryError, match="expected s3://bucket/prefix"):
        parse_uri(uri)


@pytest.mark.parametrize("uri", ["", "s3://", "bucket/prefix", "s3:/bucket", "s3://bucket/a b", "s3://bucket/../b"])
def test_a_registry_needs_an_s3_uri(uri: str) -> None:
    with pytest.raises(RegistryError, match="expected s3://bucket/prefix"):
        Registry(uri)


def move(target: str, source: str | None, action: Any = "promote") -> Move:
    return Move("id", "2026-01-01T00:00:00+00:00", "me", source, target, "why", "champion", action)


@given(steps=st.lists(st.integers(min_value=-1, max_value=4), max_size=30))
def test_rolling_back_undoes_promotions_in_reverse(steps: list[int]) -> None:
    """Against a plain undo list: a number promotes that version, -1 rolls back."""
    moves: list[Move] = []
    undo: list[str] = []
    for step in steps:
        now = undo[-1] if undo else None
        if step >= 0 and str(step) != now:
            moves.append(move(str(step), now))
            undo.append(str(step))
        elif step < 0:
            expected = undo[-2] if len(undo) > 1 else None
            assert roll_back_target(moves) == expected
            if expected is not None:
                undo.pop()
                # The same version may lie further down too: the nearest one is meant.
                moves.append(move(expected, now, "rollback"))
    assert roll_back_target(moves) == (undo[-2] if len(undo) > 1 else None)


def test_a_roll_back_to_a_version_given_goes_on_from_there() -> None:
    moves = [move(v, None) for v in "abcd"] + [move("b", "d", "rollback")]
    assert roll_back_target(moves) == "a"
    assert roll_back_target([*moves, move("d", "b", "rollback")]) == "b"
    assert roll_back_target([]) is None


def manifest(files: Any = None, **changes: Any) -> bytes:
    plain = {"vocabulary.json": {"sha256": "0" * 64, "size": 3}}
    content = {
        "kind": ARTIFACT.kind,
        "version": ARTIFACT.version,
        "files": plain if files is None else files,
        "meta": {"name": "tiny"},
    }
    return json.dumps({**content, **changes}).encode()


def test_a_manifest_is_read() -> None:
    data = manifest()
    found = read_manifest(data, "here")
    assert (found.data, found.sha256) == (data, hashlib.sha256(data).hexdigest())
    assert (found.meta, found.size) == ({"name": "tiny"}, 3)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", ".", "", "a\\b", "c:/x", "a\0b", "a\nb", "manifest.json",
     "manifest.json.sig"],
)  # fmt: skip
def test_a_manifest_that_leads_astray_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="may lead outside its folder"):
        read_manifest(manifest({name: {"sha256": "0" * 64, "size": 1}}), "here")


@given(name=st.text(max_size=20) | st.text("./\\ab", max_size=12))
def test_a_name_that_passes_lies_below_the_folder(tmp_path_factory: Any, name: str) -> None:
    try:
        read_manifest(manifest({name: {"sha256": "0" * 64, "size": 1}}), "here")
    except FormatError:
        return
    folder = tmp_path_factory.getbasetemp() / "folder"
    inside = (folder / name).resolve()
    assert inside.is_relative_to(folder.resolve())
    assert inside != folder.resolve()


ENTRY = {"sha256": "0" * 64, "size": 1}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cannot be read as a manifest"),
        (b"[]", "cannot be read as a manifest"),
        (b"\xff", "cannot be read as a manifest"),
        (b"[" * 100_000, "cannot be read as a manifest"),
        (manifest().replace(b'"meta"', b'"kind": 1, "meta"'), "a key stands twice"),
        (b'{"kind":"k","version":1,"meta":{},"files":{"a":{"size":1},"a":{"size":2}}}', "a key stands twice"),
        (manifest(kind="cascadexml.corpus"), "is a 'cascadexml.corpus', expected a 'cascadexml.artifact'"),
        (manifest(version=ARTIFACT.version + 1), "install a newer cascadexml"),
        (manifest(version="1"), "has the version '1', expected a whole number"),
        (manifest(meta=[]), "not a well-formed manifest"),
        (manifest([]), "not a well-formed manifest"),
        (manifest({"a": ENTRY, "a/b": ENTRY}), "may lead outside"),
        (manifest({"a": {"sha256": "0" * 64}}), "no size and SHA-256"),
        (manifest({"a": {**ENTRY, "size": -1}}), "no size and SHA-256"),
        (manifest({"a": {**ENTRY, "size": True}}), "no size and SHA-256"),
        (manifest({"a": {**ENTRY, "sha256": "0" * 63 + "G"}}), "no size and SHA-256"),
        (manifest({"a": 1}), "no size and SHA-256"),
    ],
)
def test_a_manifest_that_is_not_right_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said) as caught:
        read_manifest(data, "s3://bucket/here")
    assert str(caught.value).startswith("s3://bucket/here")


@pytest.mark.parametrize(
    ("listing", "said"),
    [
        ({}, "in the manifest but not in the store"),
        ({"vocabulary.json": 4}, "has 4 bytes, the manifest says 3"),
        ({"vocabulary.json": 3, "x.py": 1}, "x.py is not in the manifest"),
        ({"vocabulary.json": 3, "manifest.json": 9, "manifest.json.sig": 9}, None),
    ],
)
def test_a_listing_is_compared_with_the_manifest(listing: dict[str, int], said: str | None) -> None:
    entries = {name: Entry(name, size, '"e"', datetime.now(UTC)) for name, size in listing.items()}
    found = read_manifest(manifest(), "here")
    if said is None:
        check_listing(found, entries, "s3://here/")
        return
    with pytest.raises(FormatError, match=said):
        check_listing(found, entries, "s3://here/")


def test_a_move_is_told_whole() -> None:
    assert {f.name for f in dataclasses.fields(Move)} >= {"id", "when", "by", "source", "target", "reason", "alias"}
