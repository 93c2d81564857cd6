import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascadexml.bundle import MANIFEST, beside, read_bundle, writing
from cascadexml.errors import FormatError

KIND, VERSION = "test.bundle", 3


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    with writing(path, KIND, VERSION, {"what": "a test", "counts": {3: 1.5}}) as folder:
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
    with writing(path, KIND, VERSION, meta) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
    found = read_bundle(path, KIND, VERSION)
    assert found.meta == meta
    assert {name: (path / name).read_bytes() for name in found.files} == files
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_equal_content_gives_equal_bytes(written: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    with writing(again, KIND, VERSION, {"counts": {3: 1.5}, "what": "a test"}) as folder:
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
            read_bundle(written, KIND, VERSION)
        else:
            with pytest.raises(FormatError, match=str(written)):
                read_bundle(written, KIND, VERSION)
    finally:
        file.write_bytes(original)


def test_a_newer_version_and_another_kind_are_refused_by_name(written: Path) -> None:
    with pytest.raises(FormatError, match=r"format version 3 of test\.bundle, this library reads up to 2"):
        read_bundle(written, KIND, 2)
    with pytest.raises(FormatError, match=r"is a 'test\.bundle', expected a 'test\.other'"):
        read_bundle(written, "test.other", VERSION)


def test_what_is_no_bundle_is_refused(written: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"holds no manifest\.json"):
        read_bundle(tmp_path / "nowhere", KIND, VERSION)
    with pytest.raises(FormatError, match="is a file"):
        read_bundle(written / "a.txt", KIND, VERSION)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b'{"kind": "test.bundle"}', b"\xff\xfe", b"[" * 100_000, b'{"kind": 1, "version": 1e999}'],
)
def test_a_malformed_manifest_is_refused(written: Path, content: bytes) -> None:
    (written / MANIFEST).write_bytes(content)
    with pytest.raises(FormatError, match="manifest"):
        read_bundle(written, KIND, VERSION)


@pytest.mark.parametrize(
    "changes", [{"version": True}, {"version": 0}, {"version": "3"}, {"meta": []}, {"files": []}, {"files": {"a": 1}}]
)
def test_a_manifest_of_wrong_types_is_refused(written: Path, changes: dict[str, object]) -> None:
    edit_manifest(written, **changes)
    with pytest.raises(FormatError, match="manifest"):
        read_bundle(written, KIND, VERSION)


def test_an_edited_meta_is_refused(written: Path) -> None:
    edit_manifest(written, meta={"what": "another test"})
    with pytest.raises(FormatError, match="was changed after it was written"):
        read_bundle(written, KIND, VERSION)


@pytest.mark.parametrize("name", ["../secret.txt", "/{tmp}/secret.txt", "inner/../../secret.txt", "inner/../a.txt"])
def test_a_manifest_cannot_name_a_file_outside(written: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.txt").write_text("alpha")
    escaped = name.replace("/{tmp}", str(tmp_path))
    entry = json.loads((written / MANIFEST).read_text())["files"]["a.txt"]
    (written / "a.txt").unlink()
    forge(written, {escaped: entry})
    with pytest.raises(FormatError, match="is not a file there"):
        read_bundle(written, KIND, VERSION)


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
        read_bundle(written, KIND, VERSION)


def test_strangers_are_refused(written: Path) -> None:
    os.mkfifo(written / "inner" / "pipe")
    with pytest.raises(FormatError, match="pipe is not in the manifest"):
        read_bundle(written, KIND, VERSION)


def test_an_interrupted_writer_leaves_what_was_there(written: Path, tmp_path: Path) -> None:
    before = (written / MANIFEST).read_bytes()
    with pytest.raises(KeyboardInterrupt), writing(written, KIND, VERSION) as folder:
        (folder / "half.txt").write_text("half")
        raise KeyboardInterrupt
    assert (written / MANIFEST).read_bytes() == before
    with pytest.raises(RuntimeError), beside(tmp_path / "file.txt") as new:
        new.write_text("half")
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]
