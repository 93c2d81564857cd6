"""The model registry: versions, aliases and records in an S3 bucket, and nothing besides.

A version is called by the hash of its manifest. The manifest is written last and only where there is none, so that a
version exists whole or not at all. An alias moves by compare-and-set on its ETag, so that no move is lost. Both hold
however many processes work at once and wherever one of them dies.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cascadexml.artifact.artifact import Artifact, open_artifact
from cascadexml.bundle import Bundle
from cascadexml.config import RegistrySettings
from cascadexml.errors import RegistryError
from cascadexml.progress import Progress, silent
from cascadexml.registry.aliases import ANY, Aliases, Move
from cascadexml.registry.cache import Cache, check_replaceable, copy_out, default_cache
from cascadexml.registry.collect import Collector, Removed
from cascadexml.registry.difference import difference, label_changes
from cascadexml.registry.place import Place
from cascadexml.registry.publication import Publication
from cascadexml.registry.records import RECORD, Records
from cascadexml.registry.uris import bucket_and_prefix, checked_name
from cascadexml.registry.versions import Version, Versions
from cascadexml.storage.object_store import ObjectStore


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
        bucket, prefix = bucket_and_prefix(self.uri)
        store = ObjectStore(bucket, self.settings)
        self._cache = Cache(cache if cache is not None else default_cache(), self.settings.workers)
        key = self.settings.verify_key or os.environ.get("CASCADEXML_VERIFY_KEY")
        self._place = Place(self.uri, prefix, store, self.settings, Path(key) if key else None)
        self._versions = Versions(self._place)
        self._aliases = Aliases(self._place, self._versions)
        self._records = Records(self._place)
        self._collector = Collector(self._place, self._versions, self._aliases)

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
        publication = Publication(self._place, folder, name)
        publication.run(by, progress)
        return self._versions.read(publication.name, publication.version)[0]

    def resolve(self, name: str, ref: str = "champion") -> Version:
        """The version that an alias names now, or the version of this name.

        Raises:
            NotFoundError: there is no such alias or version, or no complete one.
            FormatError: its manifest is damaged, of another version, or not signed as asked.
        """
        return self._aliases.resolve(name, ref)[0]

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
        return self._aliases.promote(name, version, alias, reason=reason, by=by, expect=expect)

    def roll_back(
        self, name: str, alias: str = "champion", *, reason: str, by: str | None = None, to: str | None = None
    ) -> Move:
        """Let an alias name the version before again, or `to`, which it must have named once.

        Rolling back twice goes back two versions.

        Raises:
            NotFoundError: there is no such alias, none before, or the version has been removed.
            ConflictError: the alias moved meanwhile: look before rolling back what somebody just did.
        """
        return self._aliases.roll_back(name, alias, reason=reason, by=by, to=to)

    def history(self, name: str, alias: str = "champion") -> list[Move]:
        """All moves of an alias, oldest first.

        Raises:
            NotFoundError: there is no such alias.
        """
        return self._aliases.history(name, alias)

    def names(self) -> list[str]:
        """The models that have at least one complete version, sorted."""
        return self._versions.names()

    def versions(self, name: str) -> list[Version]:
        """The complete versions of a model, oldest first; one with a damaged manifest is left out, which is logged."""
        return self._versions.of(name)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias → the version that it names."""
        return {alias: moves[-1].target for alias, moves in self._aliases.of(name).items()}

    def diff(self, name: str, one: str, other: str) -> dict[str, Any]:
        """What differs between two versions, each given by its name or an alias.

        Returns:
            "one" and "other": the versions. "params", "metrics" and "libraries": key → [value in one, value in other],
            where they differ; None stands for a missing value. "labels": {"added": [ids], "removed": [ids], "renamed":
            {id: [name in one, name in other]}} of the labels that the models rank. "data_fingerprint",
            "git_revision", "dvc_lock": [in one, in other], None where they are equal.
        """
        first, second = self.resolve(name, one), self.resolve(name, other)
        labels = label_changes(self._versions.vocabulary(first), self._versions.vocabulary(second))
        return {**difference(first, second), "labels": labels}

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
            check_replaceable(to)
        cached = self._pull(name, ref, progress)
        if to is None:
            return cached.path
        copy_out(cached.path, to)
        return to

    def open(self, name: str, ref: str = "champion", *, progress: Progress = silent) -> Artifact:
        """Pull an artifact into the cache, as `pull` does, and open it: what was verified there is not verified again.

        Args:
            name: the model's.
            ref: an alias or a version.
            progress: called with ("pull", bytes done, bytes in all, {}).

        Raises:
            NotFoundError: there is no such alias or version.
            FormatError: what lies in the store is not what the manifest says, or not signed as asked.
        """
        return open_artifact(self._pull(name, ref, progress))

    def _pull(self, name: str, ref: str, progress: Progress) -> Bundle:
        version, manifest = self._aliases.resolve(name, ref)
        return self._versions.pull(version, manifest, self._cache, progress)

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
        place = self._place
        names = [checked_name(name, "a model's name")] if name else list(place.store.folders(place.prefix))
        limit = datetime.now(UTC) - older_than
        return [removed for each in names for removed in self._collector.collect(each, limit, keep, dry_run)]

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
        return self._records.put(name, kind, key, files)

    def records(self, name: str, kind: str) -> list[str]:
        """The keys of a model's complete records of a kind, oldest first."""
        return self._records.keys(name, kind)

    def read_record(self, name: str, kind: str, key: str, file: str = RECORD) -> bytes:
        """One file of a complete record.

        Raises:
            NotFoundError: there is no such record, or no such file in it.
        """
        return self._records.read(name, kind, key, file)
