"""Whether a store keeps what the registry relies on, asked by doing it: many times, and by many writers at once.

Every object that is written holds an id of its own write. So a write whose answer was lost is known by what lies there
in the end, and never by its answer alone.
"""

import base64
import hashlib
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path

from cascadexml.config import RegistrySettings
from cascadexml.errors import NotFoundError, RegistryError
from cascadexml.progress import Progress, silent
from cascadexml.registry.uris import bucket_and_prefix
from cascadexml.storage.bucket import status_of
from cascadexml.storage.object_store import Entry, ObjectStore
from cascadexml.storage.parallel import in_parallel

ROUNDS, WRITERS = 200, 32
"""As many races, and as many writers in each, as tell of a store that lets two pass now and then."""


@dataclass(frozen=True)
class Finding:
    """What was seen of one promise.

    Attributes:
        promise: what the store should do.
        tried: how often it was put to the test.
        broken: how often it was not kept.
        example: what was seen the first time that it was not; else empty.
        needed: the registry relies on it; else it is told for who wonders.
    """

    promise: str
    tried: int
    broken: int
    example: str = ""
    needed: bool = True


def check_store(
    uri: str,
    settings: RegistrySettings | None = None,
    *,
    rounds: int = ROUNDS,
    writers: int = WRITERS,
    progress: Progress = silent,
) -> list[Finding]:
    """Try what the registry relies on below a registry's prefix; what is written there is removed again.

    Args:
        uri: s3://bucket/prefix
        settings: timeouts, encryption; `object_lock_days` and `workers` are not read.
        rounds: races of each kind, and how often everything else is tried.
        writers: how many race.
        progress: called with ("check", tries done, tries in all, {}).

    Raises:
        RegistryError: the store cannot be used at all, or not by who asks.
    """
    bucket, prefix = bucket_and_prefix(uri.rstrip("/"))
    store = ObjectStore(bucket, replace(settings or RegistrySettings(), workers=writers, object_lock_days=0))
    trials: list[tuple[str, Callable[[_Trial], str], bool]] = [
        ("of many who create an object one wins", partial(_create, writers=writers), True),
        ("of many who replace a version of an object one wins", partial(_replace, writers=writers), True),
        ("what has changed is not replaced by its old ETag", _stale, True),
        ("what is not there is told from what is", _missing, True),
        ("a write is read and listed at once, and so is a removal", _read_back, True),
        ("an object that was replaced is not read on", _read_on, True),
        ("a body that differs from its checksum is refused", _checksum, True),
        ("an old ETag stays refused when the content comes back", _back_again, False),
    ]
    findings = []
    with _scratch(store, prefix) as scratch:
        for number, (promise, trial, needed) in enumerate(trials):
            found = []
            for turn in range(rounds):
                found.append(trial(_Trial(store, f"{scratch}{number}-{turn}")))
                progress("check", number * rounds + turn + 1, rounds * len(trials), {})
            broken = [told for told in found if told]
            findings.append(Finding(promise, rounds, len(broken), broken[0] if broken else "", needed))
    return findings


@dataclass(frozen=True)
class _Trial:
    """A store, and a key in it that nothing has been written to."""

    store: ObjectStore
    key: str

    def put(self) -> tuple[bytes, str]:
        """Write the key, whatever is there: what was written, and its ETag."""
        data = _token()
        self.store.put(self.key, data)
        return data, self.etag()

    def etag(self) -> str:
        return self.store.get(self.key).etag

    def holds(self, data: bytes) -> bool:
        return self.store.get(self.key).data == data


def _token() -> bytes:
    return secrets.token_hex(16).encode()


@contextmanager
def _scratch(store: ObjectStore, prefix: str) -> Iterator[str]:
    """A prefix that no model has, and that is empty in the end."""
    scratch = f"{prefix}.check-{secrets.token_hex(8)}/"
    try:
        yield scratch
    finally:
        deletions = (partial(store.delete, entry.key) for entry in store.list(scratch))
        in_parallel(deletions, store.settings.workers)


def _create(trial: _Trial, writers: int) -> str:
    return _race(trial, lambda data: trial.store.put_if_absent(trial.key, data), writers)


def _replace(trial: _Trial, writers: int) -> str:
    _, etag = trial.put()
    return _race(trial, lambda data: trial.store.replace_if(trial.key, data, etag), writers)


def _race(trial: _Trial, write: Callable[[bytes], bool], writers: int) -> str:
    """What is wrong with a race: empty where one writer won, and the object holds what that one wrote."""
    bodies = [_token() for _ in range(writers)]
    start = threading.Barrier(writers)

    def run(data: bytes) -> bool:
        start.wait()
        return write(data)

    with ThreadPoolExecutor(writers) as pool:
        accepted = {data for data, passed in zip(bodies, pool.map(run, bodies), strict=True) if passed}
    final = trial.store.get(trial.key).data
    # Of a write whose answer was lost the client says that it did not pass, though it lies there.
    winners = accepted | ({final} & set(bodies))
    if winners == {final}:
        return ""
    there = "none of theirs" if final not in bodies else "that of one whose write passed"
    return f"{len(accepted)} of {writers} writes passed, and the object is {there}"


def _stale(trial: _Trial) -> str:
    _, old = trial.put()
    data, new = trial.put()
    if old == new:
        return "two contents had one ETag"
    if trial.store.replace_if(trial.key, _token(), old) or not trial.holds(data):
        return "it was replaced by its old ETag"
    if trial.store.delete_if(trial.key, old):
        return "it was removed by its old ETag"
    if trial.store.put_if_absent(trial.key, _token()) or not trial.holds(data):
        return "it was created though it was there"
    return "" if trial.store.replace_if(trial.key, _token(), new) else "it was not replaced by its own ETag"


def _missing(trial: _Trial) -> str:
    try:
        trial.store.get(trial.key)
        return "an object was read that nobody wrote"
    except NotFoundError:
        pass
    if trial.store.head(trial.key) is not None:
        return "an object was seen that nobody wrote"
    if trial.store.replace_if(trial.key, _token(), '"00000000000000000000000000000000"'):
        return "an object was replaced that nobody wrote"
    return ""


def _read_back(trial: _Trial) -> str:
    data, _ = trial.put()
    listed = [(entry.key, entry.size) for entry in trial.store.list(trial.key)]
    if not trial.holds(data) or listed != [(trial.key, len(data))]:
        return f"after a write it was listed as {listed}"
    trial.store.delete(trial.key)
    if trial.store.head(trial.key) is not None or trial.store.list(trial.key):
        return "it was there after it had been removed"
    return ""


def _read_on(trial: _Trial) -> str:
    trial.put()
    there = trial.store.get(trial.key)
    entry = Entry(trial.key, len(there.data), there.etag, there.modified)
    trial.put()
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part"
        part.write_bytes(b"0")
        try:
            trial.store.download(entry, part, lambda _: None, threading.Event())
        except RegistryError:
            return ""
    return "the rest of a replaced object was read under its old ETag"


def _checksum(trial: _Trial) -> str:
    from botocore.exceptions import ClientError

    wrong = base64.b64encode(hashlib.sha256(b"another").digest()).decode()
    try:
        trial.store.client.put_object(Bucket=trial.store.bucket, Key=trial.key, Body=_token(), ChecksumSHA256=wrong)
    except ClientError as error:
        return "" if status_of(error) == HTTPStatus.BAD_REQUEST else f"it was answered by {status_of(error)}"
    return "it was written"


def _back_again(trial: _Trial) -> str:
    first, old = trial.put()
    trial.put()
    trial.store.put(trial.key, first)
    return "ETags are those of the content" if trial.store.replace_if(trial.key, _token(), old) else ""
