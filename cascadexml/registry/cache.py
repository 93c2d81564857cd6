"""Pulled artifacts on disk, each in a folder called by the SHA-256 of its manifest.

    <cache>/artifacts/<sha256>/   whole artifacts, and nothing else
    <cache>/partial/<sha256>/     what has come so far; a later pull goes on from there
    <cache>/locks/<sha256>.lock   held by the process that fetches; the system frees it when that process dies

Nothing is written before the manifest and the store's listing have been checked. A folder appears under `artifacts/`
only when every byte of it has been compared with the manifest.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cascadexml import bundle
from cascadexml.artifact.artifact import KIND, VERSION
from cascadexml.artifact.signing import SIGNATURE
from cascadexml.bundle import MANIFEST
from cascadexml.errors import FormatError, RegistryError
from cascadexml.progress import Progress, silent
from cascadexml.storage.object_store import Entry, ObjectStore, Tell, in_parallel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """A manifest that names only files that may be fetched.

    Attributes:
        data: its bytes.
        sha256: of these bytes, 64 hex digits.
        meta: what the artifact tells of itself.
        files: path in the artifact → {"sha256", "size"}.
    """

    data: bytes
    sha256: str
    meta: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["size"]) for entry in self.files.values())


def read_manifest(data: bytes, where: str) -> Manifest:
    """Check an artifact's manifest before anything that it names is touched.

    Raises:
        FormatError: it is no well-formed manifest of an artifact, of a newer format, names a file twice, or names a
            path that is absolute, leads outside its folder, or goes through another file.
    """
    try:
        content = json.loads(data, object_pairs_hook=_without_duplicates)
        kind, version, meta, files = (content[key] for key in ("kind", "version", "meta", "files"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{where} cannot be read as a manifest ({error!r}): publish the artifact again.") from None
    if kind != KIND:
        raise FormatError(f"{where} is that of a {kind!r}, expected a {KIND!r}: check the URI.")
    if type(version) is not int or version < 1 or not isinstance(meta, dict) or not isinstance(files, dict):
        raise FormatError(f"{where} is not a well-formed manifest: publish the artifact again.")
    if version > VERSION:
        raise FormatError(
            f"{where} has format version {version} of {KIND}, this library reads up to {VERSION}: "
            "install a newer cascadexml."
        )
    for name, entry in files.items():
        if not is_safe_name(name) or any(parent.as_posix() in files for parent in PurePosixPath(name).parents):
            raise FormatError(f"{where} names {name!r}, which may lead outside its folder: do not trust it.")
        well_formed = (
            isinstance(entry, dict)
            and type(entry.get("size")) is int
            and entry["size"] >= 0
            and re.fullmatch("[0-9a-f]{64}", str(entry.get("sha256"))) is not None
        )
        if not well_formed:
            raise FormatError(f"{where} has no size and SHA-256 for {name!r}: publish the artifact again.")
    return Manifest(data, hashlib.sha256(data).hexdigest(), meta, files)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def is_safe_name(name: str) -> bool:
    """Whether a path in a manifest or record leads to a file below its folder, on any system."""
    path = PurePosixPath(name)
    return (
        name == path.as_posix()
        and name not in (MANIFEST, SIGNATURE, ".")
        and not path.is_absolute()
        and ".." not in path.parts
        and re.search(r'[\x00-\x1f\x7f\\:*?"<>|]', name) is None
    )


def check_listing(manifest: Manifest, entries: Mapping[str, Entry], where: str) -> None:
    """Compare a version in the store, file name → entry, with its manifest, before a byte is fetched.

    Raises:
        FormatError: a file is missing, of another size, or not in the manifest.
    """
    for name, entry in manifest.files.items():
        if name not in entries:
            raise FormatError(f"{where}{name} is in the manifest but not in the store: publish the artifact again.")
        if entries[name].size != entry["size"]:
            raise FormatError(
                f"{where}{name} has {entries[name].size} bytes, the manifest says {entry['size']}: "
                "publish the artifact again."
            )
    strangers = sorted(set(entries) - set(manifest.files) - {MANIFEST, SIGNATURE})
    if strangers:
        raise FormatError(f"{where}{strangers[0]} is not in the manifest: remove it, or do not trust the version.")


def default_cache() -> Path:
    """`CASCADEXML_CACHE`, else `cascadexml` in `XDG_CACHE_HOME` or in `~/.cache`."""
    if own := os.environ.get("CASCADEXML_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cascadexml"


class Cache:
    """A folder of pulled artifacts, shared by any number of processes.

    Args:
        root: its path; made when something is fetched.
        workers: files fetched at once.
    """

    def __init__(self, root: Path, workers: int) -> None:
        self.root = root
        self.workers = workers

    def find(self, manifest: Manifest) -> Path | None:
        """The artifact's folder if it is here and every byte of it is right."""
        path = self.root / "artifacts" / manifest.sha256
        if not path.is_dir():
            return None
        try:
            bundle.read_bundle(path, KIND, VERSION)
            if bundle.sha256_of(path / MANIFEST) == manifest.sha256:
                return path
        except FormatError as error:
            log.warning("%s is damaged and will be fetched again: %s", path, error)
        return None

    def fetch(
        self, manifest: Manifest, store: ObjectStore, entries: Mapping[str, Entry], progress: Progress = silent
    ) -> Path:
        """The artifact's folder, fetched unless it is here.

        Of several processes that ask for one artifact, one fetches and the others wait for it.

        Args:
            manifest: checked, against `entries` too.
            store: where it lies.
            entries: file name → its object.
            progress: called with ("pull", bytes done, bytes in all, {}).

        Raises:
            RegistryError: the store cannot be read, or the cache not written.
            FormatError: a file in the store is not the one that the manifest means.
        """
        try:
            with self._locked(manifest.sha256):
                found = self.find(manifest)
                return found if found is not None else self._fetch(manifest, store, entries, progress)
        except OSError as error:
            raise RegistryError(
                f"the cache {self.root} cannot be used ({error.strerror or error}): mend it, or set CASCADEXML_CACHE."
            ) from None

    def _fetch(self, manifest: Manifest, store: ObjectStore, entries: Mapping[str, Entry], progress: Progress) -> Path:
        partial = self.root / "partial" / manifest.sha256
        final = self.root / "artifacts" / manifest.sha256
        partial.mkdir(parents=True, exist_ok=True)
        for stray in [path for path in partial.rglob("*") if path.is_file() or path.is_symlink()]:
            if stray.is_symlink() or stray.relative_to(partial).as_posix() not in manifest.files:
                stray.unlink()
        here = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        missing, free = manifest.size - here, shutil.disk_usage(partial).free
        if missing > free:
            raise RegistryError(
                f"the cache {self.root} has {free} bytes free, the artifact needs {missing}: make room, or set "
                "CASCADEXML_CACHE."
            )
        tell = meter("pull", manifest.size, progress)
        stop = threading.Event()

        def fetching(name: str) -> Callable[[], None]:
            return lambda: _fetch_file(store, entries[name], partial / name, manifest.files[name], tell, stop)

        # The largest first, so that none of them is left to come alone at the end.
        names = sorted(manifest.files, key=lambda name: -int(manifest.files[name]["size"]))
        in_parallel(map(fetching, names), self.workers, stop)
        (partial / MANIFEST).write_bytes(manifest.data)
        bundle.read_bundle(partial, KIND, VERSION, digests=False)
        final.parent.mkdir(parents=True, exist_ok=True)
        bundle.replace_path(partial, final)
        return final

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        try:
            from filelock import FileLock, Timeout
        except ImportError:
            raise RegistryError('the cache needs filelock: pip install "cascadexml[s3]".') from None
        path = self.root / "locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("another process fetches %s: waiting for it", name)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _fetch_file(
    store: ObjectStore, entry: Entry, target: Path, wanted: Mapping[str, Any], tell: Tell, stop: threading.Event
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    resumed = target.stat().st_size if target.is_file() else 0
    tell(min(resumed, entry.size))
    if resumed <= entry.size:
        store.download(entry, target, tell, stop)
        if stop.is_set() or bundle.sha256_of(target) == wanted["sha256"]:
            return
    # What an earlier process left need not have been whole, or of this object.
    target.unlink()
    if resumed:
        tell(-entry.size)
        store.download(entry, target, tell, stop)
        if stop.is_set() or bundle.sha256_of(target) == wanted["sha256"]:
            return
        target.unlink()
    raise FormatError(
        f"{store.uri(entry.key)} differs from the SHA-256 in its manifest: publish the artifact again, or do not trust "
        "the store."
    )


def meter(what: str, total: int, progress: Progress) -> Tell:
    """A counter of bytes that several threads may call, which tells `progress` the sum."""
    lock = threading.Lock()
    done = 0

    def tell(n: int) -> None:
        nonlocal done
        with lock:
            done += n
            progress(what, done, total, {})

    return tell
