import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascadexml.bundle import MANIFEST, Format, beside
from cascadexml.errors import FormatError

FORMAT = Format("test.bundle", 3)
INNER = Format("test.inner", 1)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    with FORMAT.write(path, {"what": "a test", "counts": {3: 1.5}}) as folder:
        (folder / "a.txt").write_text("alpha")
        (folder / "inner").mkdir()
        (folder / "inner" / "b.bin").write_bytes(bytes(range(256)))
    return path


def edit_manifest(path: Path, **changes: object) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(manifest | changes))


names = st.text("abcdefghij", min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(names, st.binary(max_size=64), max_size=4),
    meta=st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=4),
)
def test_what_is_written_reads_back(tmp_path: Path, files: dict[str, bytes], meta: dict[str, object]) -> None:
    path = tmp_path / "bundle"
    with FORMAT.write(path, meta) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    found = FORMAT.read(path)
    assert found.meta == meta
    assert {name: (path / name).read_bytes() for name in found.files} == files
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_equal_content_gives_equal_bytes(written: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    with FORMAT.write(again, {"counts": {3: 1.5}, "what": "a test"}) as folder:
        shutil.copytree(written / "inner", folder / "inner")
        (folder / "a.txt").write_text("alpha")
    assert (again / MANIFEST).read_bytes() == (written / MANIFEST).read_bytes()


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_or_missing_byte_is_refused(written: Path, data: st.DataObject) -> None:
    # White space between the manifest's tokens carries nothing, so a change there may pass.
    file = written / data.draw(st.sampled_from([MANIFEST, "a.txt", "inner/b.bin"]))
    original = file.read_bytes()
    try:
        place = data.draw(st.integers(0, len(original) - 1))
        if data.draw(st.booleans()):
            file.write_bytes(original[:place])
        else:
            changed = bytearray(original)
            changed[place] ^= data.draw(st.integers(1, 255))
            file.write_bytes(bytes(changed))
        try:
            same = file.name == MANIFEST and json.loads(file.read_bytes()) == json.loads(original)
        except ValueError:
            same = False
        if same:
            FORMAT.read(written)
        else:
            with pytest.raises(FormatError, match=str(written)):
                FORMAT.read(written)
    finally:
        file.write_bytes(original)


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (2, r"format version 3 of test\.bundle, this library reads version 2: install a newer cascadexml"),
        (
            4,
            r"format version 3 of test\.bundle, this library reads version 4: it was written by an older cascadexml",
        ),
    ],
)
def test_a_newer_and_an_older_version_are_refused_by_name(written: Path, version: int, said: str) -> None:
    with pytest.raises(FormatError, match=f"{written} has {said}"):
        Format("test.bundle", version).read(written)


def test_another_kind_is_refused_by_name(written: Path) -> None:
    with pytest.raises(FormatError, match=rf"{written} is a 'test\.bundle', expected a 'test\.other': check the path"):
        Format("test.other", 3).read(written)


@pytest.mark.parametrize("version", [True, 0, -1, "3", 3.0, None])
def test_what_is_no_version_is_refused(version: object) -> None:
    FORMAT.check("test.bundle", 3, "s3://bucket/file.json")
    with pytest.raises(FormatError, match=r"s3://bucket/file\.json has the version .*, expected a whole number"):
        FORMAT.check("test.bundle", version, "s3://bucket/file.json")


@pytest.fixture
def nested(tmp_path: Path) -> Path:
    """A bundle with another one in the folder parts/inner, and with a file beside it."""
    path = tmp_path / "outer"
    with FORMAT.write(path) as folder:
        (folder / "beside.txt").write_text("beside")
        with INNER.write(folder / "parts" / "inner", {"n": 2}) as inner:
            (inner / "deep").mkdir()
            (inner / "deep" / "a.txt").write_text("alpha")
            (inner / "b.txt").write_text("beta")
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed from now on."""
    names: list[str] = []
    digest = hashlib.file_digest

    def counted(file: BinaryIO, name: str) -> object:
        names.append(file.name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return names


def test_a_part_is_the_inner_bundle_and_hashes_nothing_again(nested: Path, hashed: list[str]) -> None:
    outer = FORMAT.read(nested)
    assert sorted(hashed) == sorted(str(nested / name) for name in outer.files)
    part = outer.part("parts/inner", INNER)
    assert part.verified
    assert INNER.read(part) is part
    assert len(hashed) == len(outer.files)
    assert part == INNER.read(nested / "parts" / "inner")


def test_a_bundle_that_was_not_hashed_is_hashed_when_it_is_read_for_good(nested: Path, hashed: list[str]) -> None:
    quick = FORMAT.read(nested, digests=False)
    part = quick.part("parts/inner", INNER)
    assert FORMAT.read(quick, digests=False) is quick
    assert hashed == []
    assert not quick.verified
    assert not part.verified
    (nested / "parts" / "inner" / "b.txt").write_text("bete")
    with pytest.raises(FormatError, match="SHA-256"):
        INNER.read(part)


def test_a_part_of_another_kind_or_version_is_refused(nested: Path) -> None:
    outer = FORMAT.read(nested)
    with pytest.raises(FormatError, match=r"expected a 'test\.other'"):
        outer.part("parts/inner", Format("test.other", 1))
    with pytest.raises(FormatError, match="it was written by an older cascadexml"):
        outer.part("parts/inner", Format("test.inner", 2))
    with pytest.raises(FormatError, match=r"expected a 'test\.inner'"):
        INNER.read(outer)
    with pytest.raises(FormatError, match=r"holds no manifest\.json"):
        outer.part("parts", INNER)


@pytest.mark.parametrize("edit", ["leave out", "add", "other digest"])
def test_a_part_must_list_what_the_outer_manifest_lists(nested: Path, tmp_path: Path, edit: str) -> None:
    inner = nested / "parts" / "inner" / MANIFEST
    manifest = json.loads(inner.read_text())
    if edit == "leave out":
        del manifest["files"]["b.txt"]
    elif edit == "add":
        manifest["files"]["../../beside.txt"] = manifest["files"]["b.txt"]
    else:
        manifest["files"]["b.txt"]["sha256"] = "0" * 64
    inner.write_text(json.dumps(manifest))
    with FORMAT.write(tmp_path / "again") as folder:
        shutil.copytree(nested / "parts", folder / "parts")
    with pytest.raises(FormatError, match=r"is not the test\.inner that the manifest of"):
        FORMAT.read(tmp_path / "again").part("parts/inner", INNER)


def test_what_is_no_bundle_is_refused(written: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"holds no manifest\.json"):
        FORMAT.read(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="is a file"):
        FORMAT.read(written / "a.txt")


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b'{"kind": "test.bundle"}', b"\xff\xfe", b"[" * 100_000, b'{"kind": 1, "version": 1e999}'],
)
def test_a_malformed_manifest_is_refused(written: Path, content: bytes) -> None:
    (written / MANIFEST).write_bytes(content)
    with pytest.raises(FormatError, match="manifest"):
        FORMAT.read(written)


@pytest.mark.parametrize(
    "changes", [{"version": True}, {"version": 0}, {"version": "3"}, {"meta": []}, {"files": []}, {"files": {"a": 1}}]
)
def test_a_manifest_of_wrong_types_is_refused(written: Path, changes: dict[str, object]) -> None:
    edit_manifest(written, **changes)
    with pytest.raises(FormatError, match="expected a whole number" if "version" in changes else "manifest"):
        FORMAT.read(written)


def test_an_edited_meta_is_refused(written: Path) -> None:
    edit_manifest(written, meta={"what": "another test"})
    with pytest.raises(FormatError, match="was changed after it was written"):
        FORMAT.read(written)


@pytest.mark.parametrize("name", ["../secret.txt", "/{tmp}/secret.txt", "inner/../../secret.txt", "inner/../a.txt"])
def test_a_manifest_cannot_name_a_file_outside(written: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.txt").write_text("alpha")
    escaped = name.replace("/{tmp}", str(tmp_path))
    entry = json.loads((written / MANIFEST).read_text())["files"]["a.txt"]
    (written / "a.txt").unlink()
    forge(written, {escaped: entry})
    with pytest.raises(FormatError, match="is not a file there"):
        FORMAT.read(written)


def forge(path: Path, files: dict[str, object]) -> None:
    """Give the bundle a manifest with other files whose own digest is right: what an attacker would write."""
    from cascadexml.bundle import _digest

    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"] = {"inner/b.bin": manifest["files"]["inner/b.bin"], **files}
    manifest["sha256"] = _digest(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("link", ["a.txt", "inner", MANIFEST])
def test_links_are_refused_even_to_equal_content(written: Path, tmp_path: Path, link: str) -> None:
    moved = tmp_path / "moved"
    (written / link).rename(moved)
    (written / link).symlink_to(moved)
    with pytest.raises(FormatError, match=r"link|not a file there|not in the manifest"):
        FORMAT.read(written)


def test_strangers_are_refused(written: Path) -> None:
    os.mkfifo(written / "inner" / "pipe")
    with pytest.raises(FormatError, match="pipe is not in the manifest"):
        FORMAT.read(written)


def test_an_interrupted_writer_leaves_what_was_there(written: Path, tmp_path: Path) -> None:
    before = (written / MANIFEST).read_bytes()
    with pytest.raises(KeyboardInterrupt), FORMAT.write(written) as folder:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt
    assert (written / MANIFEST).read_bytes() == before
    with pytest.raises(RuntimeError), beside(tmp_path / "file.txt") as new:
        new.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
