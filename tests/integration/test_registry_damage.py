"""What rots or is forged in the store is refused by name before anything of it is loaded."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cascadexml.errors import CascadeXMLError
from tests.support.fault_proxy import Fault
from tests.support.registry_site import assert_cached, clear_error, files_of

pytestmark = pytest.mark.integration
pytest_plugins = ["tests.support.registry_fixtures"]


def seal(manifest: dict[str, Any]) -> bytes:
    """A manifest's bytes with the digest over its content made right, as `cascadexml.bundle` describes it."""
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


FILE_DAMAGE: dict[str, Callable[[dict[str, bytes]], dict[str, bytes]]] = {
    "truncated": lambda files: {"calibration.json": files["calibration.json"][:-1]},
    "emptied": lambda files: {"calibration.json": b""},
    "flipped": lambda files: {
        "rankers/cascade/network/model.safetensors": flip(files["rankers/cascade/network/model.safetensors"])
    },
    "longer": lambda files: {"vocabulary.json": files["vocabulary.json"] + b" "},
    "swapped": lambda files: {
        "metrics.json": files["calibration.json"],
        "calibration.json": files["metrics.json"],
    },
    "of another version": lambda files: {
        "calibration.json": files["calibration.json"].replace(b"0.3", b"0.4"),
    },
    "a stranger": lambda files: {"rankers/cascade/network/extra.json": b"{}"},
}


@pytest.mark.parametrize("damage", FILE_DAMAGE)
def test_a_damaged_file_in_the_store_is_refused_by_name(site, name, artifacts, damage):
    registry = site.connect()
    version = registry.publish(artifacts[0], name).version
    prefix = f"models/{name}/versions/{version}/"
    files = files_of(artifacts[0])
    changed = FILE_DAMAGE[damage](files)
    assert all(files.get(file) != content for file, content in changed.items())
    for file, content in changed.items():
        site.write(prefix + file, content)
    with pytest.raises(CascadeXMLError) as caught:
        registry.pull(name, version)
    clear_error(caught.value, site)
    assert any(file in str(caught.value) for file in changed)
    assert_cached(site, [])
    for file in changed:
        if file in files:
            site.write(prefix + file, files[file])
        else:
            site.client.delete_object(Bucket=site.bucket, Key=prefix + file)
    registry.pull(name, version)
    assert_cached(site, [artifacts[0]])


def test_a_file_that_is_gone_is_refused_by_name(site, name, artifacts):
    registry = site.connect()
    version = registry.publish(artifacts[0], name).version
    key = f"models/{name}/versions/{version}/rankers/cascade/network/encoder.json"
    site.client.delete_object(Bucket=site.bucket, Key=key)
    with pytest.raises(CascadeXMLError, match=r"network/encoder\.json"):
        registry.pull(name, version)
    assert_cached(site, [])


ABSOLUTE = f"/tmp/escaped-{os.getpid()}.json"  # noqa: S108


def rename(manifest: dict[str, Any], old: str, new: str) -> None:
    manifest["files"][new] = manifest["files"].pop(old)


MANIFEST_DAMAGE: dict[str, Callable[[dict[str, Any]], None]] = {
    "a newer format": lambda manifest: manifest.update(version=99),
    "another kind": lambda manifest: manifest.update(kind="cascadexml.corpus"),
    "another digest of a file": lambda manifest: manifest["files"]["metrics.json"].update(sha256="0" * 64),
    "a larger size of a file": lambda manifest: manifest["files"]["metrics.json"].update(size=10**15),
    "a path upwards": lambda manifest: rename(manifest, "metrics.json", "../../../escaped.json"),
    "a path upwards inside": lambda manifest: rename(manifest, "metrics.json", "model/../../escaped.json"),
    "an absolute path": lambda manifest: rename(manifest, "metrics.json", ABSOLUTE),
    "a path with a backslash": lambda manifest: rename(manifest, "metrics.json", "..\\escaped.json"),
    "no such file": lambda manifest: rename(manifest, "metrics.json", "other.json"),
    "a manifest in the manifest": lambda manifest: rename(manifest, "metrics.json", "manifest.json"),
    "no files": lambda manifest: manifest.update(files={}),
    "files that are a list": lambda manifest: manifest.update(files=[]),
}


@pytest.mark.parametrize("renamed", [False, True], ids=["in its place", "under a name of its own"])
@pytest.mark.parametrize("damage", MANIFEST_DAMAGE)
def test_an_edited_manifest_is_refused_before_anything_is_fetched(site, name, proxy, artifacts, damage, renamed):
    """Its own digest is right again; `renamed`, the version is called by the new manifest's hash as well."""
    good = site.connect()
    version = good.publish(artifacts[0], name).version
    whole = (artifacts[0] / "manifest.json").read_bytes()
    manifest = json.loads(whole)
    MANIFEST_DAMAGE[damage](manifest)
    content = seal(manifest)
    edited = f"v-{hashlib.sha256(content).hexdigest()[:12]}" if renamed else version
    if renamed:
        for key in site.keys(f"{name}/versions/"):
            source = {"Bucket": site.bucket, "Key": key}
            site.client.copy_object(Bucket=site.bucket, Key=key.replace(version, edited), CopySource=source)
    prefix = f"models/{name}/versions/{edited}/"
    strangers = sorted(set(manifest["files"]) - set(files_of(artifacts[0])))
    for file in strangers:
        # What a path leads to shall be there to be fetched, as far as the store takes such a key.
        with suppress(ClientError):
            site.write(prefix + file, (artifacts[0] / "metrics.json").read_bytes())
    site.write(prefix + "manifest.json", content)
    reader = site.connect(proxy.endpoint)
    before = files_of(site.folder)
    with pytest.raises(CascadeXMLError) as caught:
        reader.pull(name, edited)
    clear_error(caught.value, site)
    if "path" in damage:
        assert "outside" in str(caught.value)
    if damage == "another digest of a file" and renamed:
        assert "metrics.json" in str(caught.value)
    else:
        assert {request.path.rpartition("/")[2] for request in proxy.log if "?" not in request.path} == {
            "manifest.json"
        }
        assert files_of(site.folder) == before
    assert_cached(site, [])
    assert list(site.folder.parent.rglob("escaped.json")) == []
    assert not Path(ABSOLUTE).exists()
    for file in strangers:
        with suppress(ClientError):
            site.client.delete_object(Bucket=site.bucket, Key=prefix + file)
    site.write(f"models/{name}/versions/{version}/manifest.json", whole)
    reader.pull(name, version)
    assert_cached(site, [artifacts[0]])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_none_is_refused(site, name, artifacts, content):
    registry = site.connect()
    version = registry.publish(artifacts[0], name).version
    site.write(f"models/{name}/versions/{version}/manifest.json", content)
    with pytest.raises(CascadeXMLError) as caught:
        registry.pull(name, version)
    clear_error(caught.value, site)
    assert_cached(site, [])


def edited(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | changes).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"[]",
        edited(version=99),
        edited(kind="cascadexml.artifact"),
        edited(target="../../other/versions/v-000000000000"),
        edited(target="v-000000000000"),
        edited(target=None),
        edited(moves="none"),
    ],
    ids=["empty", "truncated", "a list", "newer", "another kind", "upwards", "no such version", "null", "no moves"],
)
def test_a_damaged_alias_is_refused_and_not_overwritten(site, name, artifacts, damage):
    registry = site.connect()
    first, second = (registry.publish(path, name).version for path in artifacts[:2])
    registry.promote(name, first, reason="first")
    key = f"models/{name}/aliases/champion.json"
    whole = site.read(key)
    damaged = damage(whole)
    site.write(key, damaged)
    for call in (registry.pull, registry.resolve):
        with pytest.raises(CascadeXMLError) as caught:
            call(name)
        clear_error(caught.value, site)
    with suppress(CascadeXMLError):
        # A promotion may mend an alias that names a version which is gone, never one that cannot be read.
        registry.promote(name, second, reason="second")
        assert json.loads(damaged)["target"] == "v-000000000000"
    assert_cached(site, [])
    site.write(key, whole)
    assert registry.resolve(name).version == first


def test_a_bit_flipped_in_transit_is_never_loaded(site, name, proxy, artifacts):
    good = site.connect()
    good.promote(name, good.publish(artifacts[0], name).version, reason="first")
    reader = site.connect(proxy.endpoint)
    for file in ("champion.json", "manifest.json", "model.safetensors", "vocabulary.json", "calibration.json"):
        proxy.break_with(Fault("flip answer", "GET", rf"{file}$", times=None))
        with pytest.raises(CascadeXMLError, match=file) as caught:
            reader.pull(name)
        clear_error(caught.value, site)
        assert_cached(site, [])
        shutil.rmtree(site.cache, ignore_errors=True)
    proxy.break_with()
    reader.pull(name)
    assert_cached(site, [artifacts[0]])
