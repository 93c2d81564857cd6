"""The model registry: versions, aliases and records in an S3 bucket, and nothing besides.

    s3://BUCKET/PREFIX/NAME/versions/VERSION/…files…, manifest.json   an artifact, byte for byte
    s3://BUCKET/PREFIX/NAME/aliases/ALIAS.json                        the version it names, and all its moves
    s3://BUCKET/PREFIX/NAME/records/KIND/KEY/…files…, record.json     what was found out about a model

A version is called by the hash of its manifest. The manifest is written last and only where there is none, so that a
version exists whole or not at all. An alias moves by compare-and-set on its ETag, so that no move is lost. Both hold
however many processes work at once and wherever one of them dies.
"""

import getpass
import hashlib
import json
import logging
import os
import random
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote, unquote

from cascadexml import bundle
from cascadexml.artifact import signing
from cascadexml.artifact.artifact import KIND, VERSION, open_artifact
from cascadexml.artifact.signing import SIGNATURE
from cascadexml.bundle import MANIFEST
from cascadexml.config import RegistrySettings
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import ConflictError, DataError, FormatError, NotFoundError, RegistryError
from cascadexml.progress import Progress, silent
from cascadexml.registry.aliases import Move, alias_bytes, parse_alias, roll_back_target
from cascadexml.registry.cache import Cache, Manifest, check_listing, default_cache, is_safe_name, meter, read_manifest
from cascadexml.registry.uris import NAME, VERSION_NAME, bucket_and_prefix, checked_alias, checked_name
from cascadexml.storage.object_store import PART, Entry, ObjectStore, in_parallel

log = logging.getLogger(__name__)

ANY: Final[Any] = object()
"""For `promote(expect=…)`: whatever the alias names now."""
RECORD = "record.json"
REMOVING = "removing.json"
TOMBSTONE_KIND = "cascadexml.removed"
RACES = 200
RACE_SECONDS = 60.0


@dataclass(frozen=True)
class Version:
    """A published artifact.

    Attributes:
        name: the model's.
        version: "v-" and the first 12 digits of `fingerprint`.
        uri: s3://bucket/prefix/name/versions/version
        created: when its manifest was written.
        fingerprint: SHA-256 of its manifest's bytes.
        meta: what the artifact tells of itself: params, metrics, libraries, fingerprints.
        files: path → {"sha256", "size"}.
        by: who published it, as far as they said.
    """

    name: str
    version: str
    uri: str
    created: datetime
    fingerprint: str
    meta: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    by: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["size"]) for entry in self.files.values())


@dataclass(frozen=True)
class Removed:
    """What `gc` removed, or would remove.

    Attributes:
        what: "incomplete version", "old version" or "upload".
        uri: where it lay.
        size: bytes; 0 for an upload, whose parts the store does not list.
        newest: when it was last written to.
    """

    what: Literal["incomplete version", "old version", "upload"]
    uri: str
    size: int
    newest: datetime


class Registry:
    """A model registry in S3.

    Endpoint, region and credentials come from boto3's own chain; `AWS_ENDPOINT_URL` is honoured. Every method raises
    `RegistryError` when the store cannot be used, `NotFoundError` for what is not there, `ConflictError` when somebody
    else was faster, and `FormatError` for what is damaged or not to be trusted.

    Args:
        uri: s3://bucket/prefix
        settings: timeouts, encryption, retention, keys. `settings.uri` is not read. Without `verify_key`,
            `CASCADEXML_VERIFY_KEY` names the public key, if it is set.
        cache: where `pull` puts artifacts; by default `CASCADEXML_CACHE` or `~/.cache/cascadexml`.
    """

    def __init__(self, uri: str, *, settings: RegistrySettings | None = None, cache: Path | None = None) -> None:
        self.uri = uri.rstrip("/")
        self.settings = settings or RegistrySettings()
        bucket, self._prefix = bucket_and_prefix(self.uri)
        self._store = ObjectStore(bucket, self.settings)
        self._cache = Cache(cache if cache is not None else default_cache(), self.settings.workers)
        key = self.settings.verify_key or os.environ.get("CASCADEXML_VERIFY_KEY")
        self._verify_key = Path(key) if key else None

    def publish(
        self, folder: Path, name: str | None = None, *, by: str | None = None, progress: Progress = silent
    ) -> Version:
        """Bring an artifact into the registry, whole or not at all.

        Publishing the same bytes again gives the same version. A publication that broke off goes on where it stopped.

        Args:
            folder: an artifact; every byte of it is verified first.
            name: the model's name; by default the artifact's own.
            by: who publishes; by default user@host.
            progress: called with ("publish", bytes done, bytes in all, {}).

        Raises:
            FormatError: `folder` is no artifact, or is damaged.
            DataError: a file of it changed meanwhile.
            ConflictError: a `gc` is removing what is left of an earlier attempt.
        """
        artifact = open_artifact(folder)
        data = (artifact.path / MANIFEST).read_bytes()
        manifest = read_manifest(data, str(artifact.path / MANIFEST))
        name = checked_name(name or str(manifest.meta["name"]), "a model's name")
        version = _version_of(manifest)
        prefix = self._version_prefix(name, version)
        entries = self._files(prefix)
        committed = self._is_committed(prefix, entries, data)
        signature = self._signature(data, prefix, entries)
        self._upload(artifact.path, manifest, prefix, entries, committed, progress)
        entries = self._files(prefix)
        # Read last of all before the commit: a `gc` that works here either shows, or finds a file too young to remove.
        committed = self._is_committed(prefix, entries, data)
        check_listing(manifest, entries, self._store.uri(prefix))
        if signature is not None and not (
            SIGNATURE in entries and signature == self._store.get(prefix + SIGNATURE).data
        ):
            self._store.put(prefix + SIGNATURE, signature, retain=True)
        who = {"by": quote(by or _myself(), safe=" @.")}
        if not committed and not self._store.put_if_absent(prefix + MANIFEST, data, retain=True, metadata=who):
            # Another publisher's, or this very write's whose answer was lost: the bytes say whether it is the same.
            self._is_committed(prefix, self._files(prefix), data)
        log.info("published %s as %s", folder, self._store.uri(prefix))
        return self._version(name, version)[0]

    def _is_committed(self, prefix: str, entries: Mapping[str, Entry], data: bytes) -> bool:
        """Whether the version is complete with this manifest.

        Raises:
            ConflictError: it is being removed, or another manifest is there.
        """
        if REMOVING in entries:
            raise _being_removed(self._store.uri(prefix), ConflictError)
        if MANIFEST not in entries:
            return False
        there = self._store.get(prefix + MANIFEST).data
        if there == data:
            return True
        if _is_tombstone(there):
            raise _being_removed(self._store.uri(prefix), ConflictError)
        raise ConflictError(f"{self._store.uri(prefix)} holds another manifest: use another name for this model.")

    def _signature(self, data: bytes, prefix: str, entries: Mapping[str, Entry]) -> bytes | None:
        """The signature that the version is to have; refused here if no reader with this verify key would take it."""
        signature = signing.sign(data, Path(self.settings.sign_key)) if self.settings.sign_key else None
        if self._verify_key is not None:
            there = self._store.get(prefix + SIGNATURE).data if SIGNATURE in entries else None
            signing.verify(data, signature or there, self._verify_key, self._store.uri(prefix + MANIFEST))
        return signature

    def _upload(
        self,
        folder: Path,
        manifest: Manifest,
        prefix: str,
        entries: Mapping[str, Entry],
        committed: bool,
        progress: Progress,
    ) -> None:
        """Bring up what is not there. Small files go side by side, then large ones, each in parts side by side."""
        tell = meter("publish", manifest.size, progress)
        sizes = {name: int(entry["size"]) for name, entry in manifest.files.items()}

        def is_there(name: str) -> bool:
            if name not in entries or entries[name].size != sizes[name]:
                return False
            if committed:
                return True
            found = self._store.head(prefix + name)
            return found is not None and found[1].get("sha256") == manifest.files[name]["sha256"]

        def bring(name: str) -> None:
            if name != youngest and is_there(name):
                tell(sizes[name])
            else:
                self._store.upload(folder / name, prefix + name, str(manifest.files[name]["sha256"]), tell)

        # One file is always written anew, so that no `gc` takes this attempt for one that was given up long ago.
        youngest = None if committed else min(sizes, key=lambda name: sizes[name])
        small = [name for name in sizes if sizes[name] <= PART]
        in_parallel((partial(bring, name) for name in small), self.settings.workers)
        for name in sorted(set(sizes) - set(small)):
            bring(name)

    def resolve(self, name: str, ref: str = "champion") -> Version:
        """The version that an alias names now, or the version of this name.

        Raises:
            NotFoundError: there is no such alias or version, or no complete one.
            FormatError: its manifest is damaged, of a newer format, or not signed as asked.
        """
        return self._resolve(name, ref)[0]

    def promote(
        self,
        name: str,
        version: str,
        alias: str = "champion",
        *,
        reason: str,
        by: str | None = None,
        expect: str | Any | None = ANY,
    ) -> Move:
        """Let an alias name a version, by compare-and-set.

        Where the alias names the version already, nothing is written and the last move is given.

        Args:
            name: the model's.
            version: a complete version.
            alias: made if there is none.
            reason: why; kept in the alias's history.
            by: who; by default user@host.
            expect: the version that the alias must name now, None if there must be no such alias.

        Raises:
            NotFoundError: there is no such version, or it is being removed.
            ConflictError: the alias names another version than `expect`; or others moved it without a pause.
        """
        checked_alias(alias)
        if not reason.strip():
            raise RegistryError(f"a move of {name}@{alias} needs a reason: say why, it is kept in the history.")
        self._check_whole(name, version)
        deadline = time.monotonic() + RACE_SECONDS
        for attempt in range(RACES):
            moves, etag = self._moves(name, alias)
            current = moves[-1].target if moves else None
            if current == version:
                log.info("%s@%s names %s already", name, alias, version)
                return moves[-1]
            if expect is not ANY and current != expect:
                raise ConflictError(
                    f"{self._says(name, alias, moves)}, expected {expect or 'no such alias'}: look again."
                )
            move = self._append(name, alias, moves, etag, version, "promote", reason, by)
            if move is not None and self._confirm(name, move, moves):
                return move
            if time.monotonic() > deadline:
                break
            time.sleep(random.uniform(0, min(1.0, 0.02 * 2**attempt)))
        raise ConflictError(f"others move {name}@{alias} without a pause; {self._says(name, alias, moves)}: try again.")

    def roll_back(
        self, name: str, alias: str = "champion", *, reason: str, by: str | None = None, to: str | None = None
    ) -> Move:
        """Let an alias name the version before again, or `to`, which it must have named once.

        Rolling back twice goes back two versions.

        Raises:
            NotFoundError: there is no such alias, none before, or the version has been removed.
            ConflictError: the alias moved meanwhile: look before rolling back what somebody just did.
        """
        checked_alias(alias)
        if not reason.strip():
            raise RegistryError(f"a move of {name}@{alias} needs a reason: say why, it is kept in the history.")
        moves, etag = self._moves(name, alias)
        if not moves:
            raise self._no_alias(name, alias)
        target = to or roll_back_target(moves)
        if target is None:
            raise NotFoundError(f"{name}@{alias} has named only {moves[-1].target}: there is nothing to go back to.")
        if target not in {move.target for move in moves}:
            raise NotFoundError(f"{name}@{alias} never named {target}: promote it instead.")
        if target == moves[-1].target:
            log.info("%s@%s names %s already", name, alias, target)
            return moves[-1]
        self._check_whole(name, target)
        move = self._append(name, alias, moves, etag, target, "rollback", reason, by)
        if move is None or not self._confirm(name, move, moves):
            now, _ = self._moves(name, alias)
            raise ConflictError(f"{self._says(name, alias, now)}: look before you roll that back.")
        return move

    def history(self, name: str, alias: str = "champion") -> list[Move]:
        """All moves of an alias, oldest first.

        Raises:
            NotFoundError: there is no such alias.
        """
        moves, _ = self._moves(name, checked_alias(alias))
        if not moves:
            raise self._no_alias(name, alias)
        return moves

    def names(self) -> list[str]:
        """The models that have at least one complete version, sorted."""
        found = [name for name in self._store.folders(self._prefix) if NAME.fullmatch(name)]
        return [name for name in found if any(self._version_or_none(name, v) for v in self._complete(name))]

    def versions(self, name: str) -> list[Version]:
        """The complete versions of a model, oldest first; one with a damaged manifest is left out, which is logged."""
        read = partial(partial, self._version_or_none, name)
        found = in_parallel(map(read, self._complete(name)), self.settings.workers)
        return sorted((v for v in found if v is not None), key=lambda v: (v.created, v.version))

    def aliases(self, name: str) -> dict[str, str]:
        """Alias → the version that it names."""
        return {alias: moves[-1].target for alias, moves in self._all_moves(name).items()}

    def diff(self, name: str, one: str, other: str) -> dict[str, Any]:
        """What differs between two versions, each given by its name or an alias.

        Returns:
            "one" and "other": the versions. "params", "metrics" and "libraries": key → [value in one, value in other],
            where they differ; None stands for a missing value. "labels": {"added": [ids], "removed": [ids], "renamed":
            {id: [name in one, name in other]}} of the labels that the models rank. "data_fingerprint",
            "git_revision", "dvc_lock": [in one, in other], None where they are equal.
        """
        first, second = self.resolve(name, one), self.resolve(name, other)
        found: dict[str, Any] = {"one": first.version, "other": second.version}
        for key in ("params", "metrics", "libraries"):
            a, b = _flat(first.meta.get(key, {})), _flat(second.meta.get(key, {}))
            found[key] = {k: [a.get(k), b.get(k)] for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)}
        for key in ("data_fingerprint", "git_revision", "dvc_lock"):
            pair = [first.meta.get(key), second.meta.get(key)]
            found[key] = pair if pair[0] != pair[1] else None
        found["labels"] = _label_changes(self._labels(first), self._labels(second))
        return found

    def pull(self, name: str, ref: str = "champion", *, to: Path | None = None, progress: Progress = silent) -> Path:
        """Bring an artifact to this machine: into the cache, or a copy of it to `to`.

        What is in the cache already, and whole, is not fetched again; what broke off goes on where it stopped.

        Args:
            name: the model's.
            ref: an alias or a version.
            to: a folder that does not exist, is empty, or holds an artifact, which is replaced.
            progress: called with ("pull", bytes done, bytes in all, {}).

        Returns:
            The artifact's folder. Nobody may write to one in the cache.

        Raises:
            NotFoundError: there is no such alias or version.
            FormatError: what lies in the store is not what the manifest says, or not signed as asked.
        """
        if to is not None:
            _check_replaceable(to)
        version, manifest = self._resolve(name, ref)
        path = self._cache.find(manifest)
        if path is None:
            prefix = self._version_prefix(name, version.version)
            entries = self._files(prefix)
            if REMOVING in entries:
                raise _being_removed(version.uri)
            check_listing(manifest, entries, self._store.uri(prefix))
            path = self._cache.fetch(manifest, self._store, {n: entries[n] for n in manifest.files}, progress)
        if to is None:
            return path
        with bundle.beside(to) as new:
            shutil.copytree(path, new, copy_function=shutil.copyfile)
            bundle.read_bundle(new, KIND, VERSION)
        return to

    def gc(
        self,
        name: str | None = None,
        *,
        older_than: timedelta = timedelta(days=1),
        keep: int | None = None,
        dry_run: bool = False,
    ) -> list[Removed]:
        """Remove what nobody needs: incomplete versions, abandoned uploads and, with `keep`, old versions.

        A version that an alias names, or that a roll-back of an alias would go to, is never removed; nor are records.

        Args:
            name: one model; by default all.
            older_than: only what was last written to longer ago; a publication in progress must be younger.
            keep: of each model the newest so many complete versions stay; None keeps all.
            dry_run: remove nothing, only tell what would be.
        """
        if keep is not None and keep < 0:
            raise RegistryError(f"keep is {keep}, expected at least 0.")
        names = [checked_name(name, "a model's name")] if name else list(self._store.folders(self._prefix))
        limit = datetime.now(UTC) - older_than
        return [removed for each in names for removed in self._gc(each, limit, keep, dry_run)]

    def _gc(self, name: str, limit: datetime, keep: int | None, dry_run: bool) -> Iterator[Removed]:
        base = f"{self._prefix}{name}/versions/"
        for upload in self._store.uploads(base):
            if upload.begun <= limit:
                if not dry_run:
                    self._store.abort(upload)
                yield Removed("upload", self._store.uri(upload.key), 0, upload.begun)
        complete = self.versions(name)
        old = complete[: max(0, len(complete) - keep)] if keep is not None else []
        too_many = {version.version for version in old if version.created <= limit} - self._needed(name)
        for version in self._store.folders(base):
            prefix = f"{base}{version}/"
            entries = self._files(prefix)
            if not entries:
                continue
            has_manifest = MANIFEST in entries and not _is_tombstone(self._store.get(prefix + MANIFEST).data)
            if has_manifest:
                # A mark that is still there is that of a `gc` that died.
                marked = REMOVING in entries and entries[REMOVING].modified <= limit
                if (version in too_many or marked) and (dry_run or self._retire(name, version)):
                    yield _removed("old version", self._store.uri(prefix), entries)
            elif max(entry.modified for entry in entries.values()) <= limit and (dry_run or self._sweep(prefix, limit)):
                yield _removed("incomplete version", self._store.uri(prefix), entries)

    def _needed(self, name: str) -> set[str]:
        """The versions that aliases name, and those that roll-backs would go to."""
        moves = self._all_moves(name).values()
        return {m[-1].target for m in moves} | {back for m in moves if (back := roll_back_target(m)) is not None}

    def _retire(self, name: str, version: str) -> bool:
        """Remove a complete version, unless an alias takes it up meanwhile.

        First a mark is set, then the aliases are read again. Who promotes does it the other way round: first the alias,
        then a look for the mark. One of the two sees the other.
        """
        prefix = self._version_prefix(name, version)
        self._store.put(prefix + REMOVING, b"{}")
        if version in self._needed(name):
            self._store.delete(prefix + REMOVING)
            return False
        self._store.delete(prefix + MANIFEST)
        return self._sweep(prefix, None)

    def _sweep(self, prefix: str, limit: datetime | None) -> bool:
        """Remove a version without a manifest, in such a way that no publisher can complete it meanwhile.

        A tombstone takes the manifest's place, where only one of both can be. It goes last.
        """
        tombstone = json.dumps({"kind": TOMBSTONE_KIND, "version": 1, "id": secrets.token_hex(16)}).encode()
        if not self._store.put_if_absent(prefix + MANIFEST, tombstone):
            there = self._store.get(prefix + MANIFEST)
            if not _is_tombstone(there.data):
                return False
        entries = self._files(prefix)
        own = entries.pop(MANIFEST, None)
        if limit is not None and any(entry.modified > limit for entry in entries.values()):
            self._store.delete(prefix + MANIFEST)
            return False
        in_parallel((partial(self._store.delete, e.key) for e in entries.values()), self.settings.workers)
        if own is not None:
            self._store.delete(prefix + MANIFEST)
        return True

    def put_record(self, name: str, kind: str, key: str, files: Mapping[str, bytes | Path]) -> str:
        """Keep what was found out about a model: for good, and whole once its record.json is there.

        Args:
            name: the model's.
            kind: such as "monitoring".
            key: the record's name, such as a batch's id.
            files: path → content, or a local file that holds it; record.json among them.

        Returns:
            The record's URI. The same record again changes nothing.

        Raises:
            DataError: record.json is missing, a path is not safe, or another record of this name is there.
        """
        prefix = self._record_prefix(name, kind, key)
        if RECORD not in files:
            raise DataError(f"{self._store.uri(prefix)} needs a {RECORD}: add it to the files.")
        for path in files:
            if not is_safe_name(path):
                raise DataError(f"{self._store.uri(prefix)} cannot hold {path!r}: expected a path below it.")
        content = {path: files[path] for path in (*sorted(set(files) - {RECORD}), RECORD)}
        differs = DataError(f"{self._store.uri(prefix)} holds another record: records never change, use another key.")
        is_complete = self._store.head(prefix + RECORD) is not None
        if is_complete and set(self._files(prefix)) != set(files):
            raise differs
        for path, given in content.items():
            data = given.read_bytes() if isinstance(given, Path) else given
            if self._store.put_if_absent(prefix + path, data, retain=True):
                continue
            there = self._store.get(prefix + path)
            if there.data == data:
                continue
            if path == RECORD or self._store.head(prefix + RECORD) is not None:
                raise differs
            # Left by an attempt that broke off before its record.json.
            self._store.replace_if(prefix + path, data, there.etag)
        return self._store.uri(prefix.rstrip("/"))

    def records(self, name: str, kind: str) -> list[str]:
        """The keys of a model's complete records of a kind, oldest first."""
        prefix = f"{self._prefix}{checked_name(name, 'a model')}/records/{checked_name(kind, 'a kind')}/"
        ends = [entry for entry in self._store.list(prefix) if entry.key.count("/") == prefix.count("/") + 1]
        found = [entry for entry in ends if entry.key.endswith(f"/{RECORD}")]
        return [e.key.removeprefix(prefix).split("/")[0] for e in sorted(found, key=lambda e: (e.modified, e.key))]

    def read_record(self, name: str, kind: str, key: str, file: str = RECORD) -> bytes:
        """One file of a complete record.

        Raises:
            NotFoundError: there is no such record, or no such file in it.
        """
        prefix = self._record_prefix(name, kind, key)
        if file != RECORD and self._store.head(prefix + RECORD) is None:
            raise NotFoundError(f"{self._store.uri(prefix)} is no complete record: it has no {RECORD}.")
        return self._store.get(prefix + file).data

    def _record_prefix(self, name: str, kind: str, key: str) -> str:
        parts = (
            checked_name(name, "a model's name"),
            "records",
            checked_name(kind, "a record's kind"),
            checked_name(key, "a key"),
        )
        return f"{self._prefix}{'/'.join(parts)}/"

    def _version_prefix(self, name: str, version: str) -> str:
        return f"{self._prefix}{checked_name(name, 'a model')}/versions/{version}/"

    def _files(self, prefix: str) -> dict[str, Entry]:
        return {entry.key.removeprefix(prefix): entry for entry in self._store.list(prefix)}

    def _complete(self, name: str) -> list[str]:
        """The versions of a model that have a manifest and are not being removed."""
        base = f"{self._prefix}{checked_name(name, 'a model')}/versions/"
        parts = [entry.key.removeprefix(base).split("/") for entry in self._store.list(base)]
        ends = {end: {p[0] for p in parts if p[1:] == [end]} for end in (MANIFEST, REMOVING)}
        return sorted(v for v in ends[MANIFEST] - ends[REMOVING] if VERSION_NAME.fullmatch(v))

    def _version_or_none(self, name: str, version: str) -> Version | None:
        try:
            return self._version(name, version)[0]
        except NotFoundError:
            return None
        except FormatError as error:
            log.warning("left out: %s", error)
            return None

    def _version(self, name: str, version: str) -> tuple[Version, Manifest]:
        """Read and check the manifest of a version."""
        prefix = self._version_prefix(name, version)
        try:
            blob = self._store.get(prefix + MANIFEST)
        except NotFoundError:
            raise NotFoundError(
                f"{self.uri}/{name} has no version {version}: cascadexml registry list {name} shows those there are."
            ) from None
        where = self._store.uri(prefix + MANIFEST)
        if _is_tombstone(blob.data):
            raise _being_removed(self._store.uri(prefix))
        manifest = read_manifest(blob.data, where)
        if _version_of(manifest) != version:
            raise FormatError(f"{where} is not the manifest that the version is called by: do not trust it.")
        if self._verify_key is not None:
            try:
                signature = self._store.get(prefix + SIGNATURE).data
            except NotFoundError:
                signature = None
            signing.verify(blob.data, signature, self._verify_key, where)
        uri = self._store.uri(prefix.rstrip("/"))
        by = unquote(blob.metadata["by"]) if "by" in blob.metadata else None
        return Version(name, version, uri, blob.modified, manifest.sha256, manifest.meta, manifest.files, by), manifest

    def _resolve(self, name: str, ref: str) -> tuple[Version, Manifest]:
        if VERSION_NAME.fullmatch(ref):
            return self._version(name, ref)
        moves, _ = self._moves(name, checked_alias(ref))
        if not moves:
            raise self._no_alias(name, ref)
        return self._version(name, moves[-1].target)

    def _check_whole(self, name: str, version: str) -> None:
        """Refuse a version that is not complete in the store."""
        if not VERSION_NAME.fullmatch(version):
            raise NotFoundError(f"{version!r} is no version of {name}: expected v- and 12 hex digits.")
        found, manifest = self._version(name, version)
        entries = self._files(self._version_prefix(name, version))
        if REMOVING in entries:
            raise _being_removed(found.uri)
        check_listing(manifest, entries, found.uri + "/")

    def _alias_key(self, name: str, alias: str) -> str:
        return f"{self._prefix}{checked_name(name, 'a model')}/aliases/{alias}.json"

    def _moves(self, name: str, alias: str) -> tuple[list[Move], str | None]:
        """An alias's moves, oldest first, and its ETag; none and None where there is no such alias."""
        key = self._alias_key(name, alias)
        try:
            blob = self._store.get(key)
        except NotFoundError:
            return [], None
        return parse_alias(blob.data, alias, self._store.uri(key)), blob.etag

    def _all_moves(self, name: str) -> dict[str, list[Move]]:
        base = f"{self._prefix}{checked_name(name, 'a model')}/aliases/"
        names = [e.key.removeprefix(base) for e in self._store.list(base)]
        aliases = [n.removesuffix(".json") for n in names if n.endswith(".json") and "/" not in n]
        found = in_parallel((partial(self._moves, name, alias) for alias in aliases), self.settings.workers)
        return {alias: moves for alias, (moves, _) in zip(aliases, found, strict=True) if moves}

    def _append(
        self,
        name: str,
        alias: str,
        moves: Sequence[Move],
        etag: str | None,
        target: str,
        action: Literal["promote", "rollback"],
        reason: str,
        by: str | None,
    ) -> Move | None:
        """Write the alias with one move more, if nobody else has written it since; None if somebody has."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        source = moves[-1].target if moves else None
        move = Move(secrets.token_hex(16), now, by or _myself(), source, target, reason.strip(), alias, action)
        key, data = self._alias_key(name, alias), alias_bytes(alias, [*moves, move])
        written = self._store.put_if_absent(key, data) if etag is None else self._store.replace_if(key, data, etag)
        # A write whose answer was lost is tried again by boto, and then refused because of itself.
        if not written and move.id not in {m.id for m in self._moves(name, alias)[0]}:
            return None
        log.info("%s@%s: %s → %s (%s)", name, alias, source, target, move.reason)
        return move

    def _confirm(self, name: str, move: Move, before: Sequence[Move]) -> bool:
        """Take a move back if a `gc` has begun to remove its target; see `_retire`.

        Returns:
            Whether the alias holds the move. In S3 it always does. SeaweedFS now and then lets two of many writers pass
            that race with one ETag; the one whose move was overwritten finds out here.
        """
        try:
            self._check_whole(name, move.target)
        except (NotFoundError, FormatError):
            moves, etag = self._moves(name, move.alias)
            if etag is not None and moves[-1].id == move.id:
                key = self._alias_key(name, move.alias)
                if before:
                    self._store.replace_if(key, alias_bytes(move.alias, before), etag)
                else:
                    # A publisher need not have the right to delete; an alias that leads nowhere is mended by a move.
                    with suppress(RegistryError):
                        self._store.delete_if(key, etag)
            raise
        return move.id in {m.id for m in self._moves(name, move.alias)[0]}

    def _says(self, name: str, alias: str, moves: Sequence[Move]) -> str:
        if not moves:
            return f"{self.uri}/{name} has no alias {alias}"
        last = moves[-1]
        return f"{self.uri}/{name}@{alias} names {last.target} since {last.when} by {last.by} ({last.reason})"

    def _no_alias(self, name: str, alias: str) -> NotFoundError:
        others = ", ".join(sorted(self.aliases(name))) or "none"
        return NotFoundError(
            f"{self.uri}/{name} has no alias {alias!r} (there is: {others}): check the name, or promote."
        )

    def _labels(self, version: Version) -> Vocabulary:
        """The vocabulary of a version, checked."""
        key = self._version_prefix(version.name, version.version) + "vocabulary.json"
        data = self._store.get(key).data
        if hashlib.sha256(data).hexdigest() != version.files.get("vocabulary.json", {}).get("sha256"):
            raise FormatError(f"{self._store.uri(key)} differs from the SHA-256 in its manifest: publish it again.")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "vocabulary.json"
            file.write_bytes(data)
            return Vocabulary.load(file)


def _label_changes(one: Vocabulary, other: Vocabulary) -> dict[str, Any]:
    a, b = (dict(map(v.label, range(v.L))) for v in (one, other))
    renamed = {label: [a[label], b[label]] for label in sorted(a.keys() & b.keys()) if a[label] != b[label]}
    return {"added": sorted(b.keys() - a.keys()), "removed": sorted(a.keys() - b.keys()), "renamed": renamed}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _version_of(manifest: Manifest) -> str:
    return f"v-{manifest.sha256[:12]}"


def _is_tombstone(data: bytes) -> bool:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("kind") == TOMBSTONE_KIND


def _being_removed(uri: str, kind: type[RegistryError] = NotFoundError) -> RegistryError:
    return kind(f"{uri} is being removed by a gc: take another version, or run gc again to finish that, then publish.")


def _removed(what: Literal["incomplete version", "old version"], uri: str, entries: Mapping[str, Entry]) -> Removed:
    newest = max(entry.modified for entry in entries.values())
    return Removed(what, uri.rstrip("/"), sum(entry.size for entry in entries.values()), newest)


def _check_replaceable(path: Path) -> None:
    """Refuse to replace a folder that holds anything but an artifact."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        bundle.read_bundle(path, KIND, VERSION, digests=False)
    except FormatError:
        raise DataError(f"{path} is there and is no artifact: give a path that does not exist.") from None


def _myself() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{socket.gethostname()}"
