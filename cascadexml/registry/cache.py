"""Pulled artifacts on disk, each in a folder called by the SHA-256 of its manifest.

    <cache>/artifacts/<sha256>/   whole artifacts, and nothing else
    <cache>/partial/<sha256>/     what has come so far; a later pull goes on from there
    <cache>/locks/<sha256>.lock   held by the process that fetches; the system frees it when that process dies

Nothing is written before the manifest and the store's listing have been checked. A folder appears under `artifacts/`
only when every byte of it has been compared with the manifest.
"""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cascadexml import bundle
from cascadexml.artifact.formats import ARTIFACT
from cascadexml.bundle import MANIFEST, Bundle
from cascadexml.errors import DataError, FormatError, RegistryError
from cascadexml.progress import Progress, silent
from cascadexml.registry.manifest import Manifest
from cascadexml.storage.bucket import Tell
from cascadexml.storage.object_store import Entry, ObjectStore
from cascadexml.storage.parallel import in_parallel

log = logging.getLogger(__name__)


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

    def find(self, manifest: Manifest) -> Bundle | None:
        """The artifact if it is here and every byte of it is right."""
        path = self.root / "artifacts" / manifest.sha256
        if not path.is_dir():
            return None
        try:
            found = ARTIFACT.read(path)
            if bundle.sha256_of(path / MANIFEST) == manifest.sha256:
                return found
        except FormatError as error:
            log.warning("%s is damaged and will be fetched again: %s", path, error)
        return None

    def fetch(
        self, manifest: Manifest, store: ObjectStore, entries: Mapping[str, Entry], progress: Progress = silent
    ) -> Bundle:
        """The artifact, fetched unless it is here; every byte of it has been compared with the manifest, once.

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

    def _fetch(
        self, manifest: Manifest, store: ObjectStore, entries: Mapping[str, Entry], progress: Progress
    ) -> Bundle:
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
        fetched = ARTIFACT.read(partial, digests=False)
        final.parent.mkdir(parents=True, exist_ok=True)
        bundle.replace_path(partial, final)
        # Each file's SHA-256 was compared when its last byte had come.
        return replace(fetched, path=final, verified=True)

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


def check_replaceable(path: Path) -> None:
    """Refuse to replace a folder that holds anything but an artifact.

    Raises:
        DataError: it does.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        ARTIFACT.read(path, digests=False)
    except FormatError:
        raise DataError(f"{path} is there and is no artifact: give a path that does not exist.") from None


def copy_out(cached: Path, to: Path) -> None:
    """Copy an artifact out of the cache, verified once more; what lies at `to` is replaced."""
    with bundle.beside(to) as new:
        shutil.copytree(cached, new, copy_function=shutil.copyfile)
        ARTIFACT.read(new)
