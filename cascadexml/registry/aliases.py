"""The aliases of the model registry: which version a name stands for, and all moves that brought it there."""

import dataclasses
import json
import logging
import random
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Literal

from cascadexml.bundle import Format
from cascadexml.errors import ConflictError, FormatError, NotFoundError, RegistryError
from cascadexml.registry.manifest import Manifest
from cascadexml.registry.place import Place, myself
from cascadexml.registry.uris import VERSION_NAME, checked_alias
from cascadexml.registry.versions import Version, Versions
from cascadexml.storage.parallel import in_parallel

log = logging.getLogger(__name__)

ANY: Final[Any] = object()
"""For `promote(expect=…)`: whatever the alias names now."""
FORMAT = Format("cascadexml.alias", 1)
RACES = 200
RACE_SECONDS = 60.0


@dataclass(frozen=True)
class Move:
    """One move of an alias.

    Attributes:
        id: unique.
        when: ISO 8601, UTC.
        by: who moved it.
        source: the version that the alias named before; None for the first move.
        target: the version that it names since.
        reason: why.
        alias: which one.
        action: a roll-back takes earlier moves back, so that the next one goes further back.
    """

    id: str
    when: str
    by: str
    source: str | None
    target: str
    reason: str
    alias: str
    action: Literal["promote", "rollback"] = "promote"


def roll_back_target(moves: Sequence[Move]) -> str | None:
    """The version that a roll-back goes to after these moves, oldest first; None where there is none before.

    A promotion puts a version on top of those before; a roll-back takes off all that lie above its target.
    """
    held = _held(moves)
    return held[-2] if len(held) > 1 else None


def _held(moves: Sequence[Move]) -> list[str]:
    held: list[str] = []
    for move in moves:
        if move.action == "rollback" and move.target in held:
            while held[-1] != move.target:
                held.pop()
        else:
            held.append(move.target)
    return held


def alias_bytes(alias: str, moves: Sequence[Move]) -> bytes:
    """What the file of an alias holds after these moves, oldest first; at least one."""
    document = {
        "kind": FORMAT.kind,
        "version": FORMAT.version,
        "alias": alias,
        "target": moves[-1].target,
        "moves": [{k: v for k, v in dataclasses.asdict(move).items() if k != "alias"} for move in moves],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def parse_alias(data: bytes, alias: str, where: str) -> list[Move]:
    """The moves in the file of an alias, oldest first.

    Args:
        data: the file's bytes.
        alias: what the alias must be called.
        where: the file's URI, for messages.

    Raises:
        FormatError: it is no file of this alias, is damaged, or of another version.
    """
    try:
        document = json.loads(data)
        FORMAT.check(document["kind"], document["version"], where)
        moves = [Move(alias=alias, **move) for move in document["moves"]]
        well_formed = (
            document["alias"] == alias
            and document["target"] == moves[-1].target
            and all(VERSION_NAME.fullmatch(move.target) and move.action in ("promote", "rollback") for move in moves)
        )
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise FormatError(f"{where} cannot be read as an alias ({error!r}): restore it from a backup.") from None
    if not well_formed:
        raise FormatError(f"{where} is not a well-formed alias: restore it from a backup.")
    return moves


class Aliases:
    """The aliases in a registry. Each is one object, which moves by compare-and-set on its ETag."""

    def __init__(self, place: Place, versions: Versions) -> None:
        self._place = place
        self._store = place.store
        self._versions = versions

    def resolve(self, name: str, ref: str) -> tuple[Version, Manifest]:
        """The version that an alias names now, or the version of this name.

        Raises:
            NotFoundError: there is no such alias or version, or no complete one.
            FormatError: its manifest is damaged, of a newer format, or not signed as asked.
        """
        if VERSION_NAME.fullmatch(ref):
            return self._versions.read(name, ref)
        return self._versions.read(name, self.history(name, ref)[-1].target)

    def history(self, name: str, alias: str) -> list[Move]:
        """All moves of an alias, oldest first.

        Raises:
            NotFoundError: there is no such alias.
        """
        moves, _ = self._moves(name, checked_alias(alias))
        if not moves:
            raise self._no_alias(name, alias)
        return moves

    def of(self, name: str) -> dict[str, list[Move]]:
        """Alias → its moves, oldest first, for each alias of a model."""
        base = self._place.aliases(name)
        names = [e.key.removeprefix(base) for e in self._store.list(base)]
        aliases = [n.removesuffix(".json") for n in names if n.endswith(".json") and "/" not in n]
        found = in_parallel((partial(self._moves, name, a) for a in aliases), self._place.settings.workers)
        return {alias: moves for alias, (moves, _) in zip(aliases, found, strict=True) if moves}

    def promote(
        self, name: str, version: str, alias: str, *, reason: str, by: str | None, expect: str | Any | None
    ) -> Move:
        """Let an alias name a version; see `Registry.promote`."""
        _check_move(name, alias, reason)
        self._versions.check_whole(name, version)
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

    def roll_back(self, name: str, alias: str, *, reason: str, by: str | None, to: str | None) -> Move:
        """Let an alias name the version before again, or `to`; see `Registry.roll_back`."""
        _check_move(name, alias, reason)
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
        self._versions.check_whole(name, target)
        move = self._append(name, alias, moves, etag, target, "rollback", reason, by)
        if move is None or not self._confirm(name, move, moves):
            now, _ = self._moves(name, alias)
            raise ConflictError(f"{self._says(name, alias, now)}: look before you roll that back.")
        return move

    def _moves(self, name: str, alias: str) -> tuple[list[Move], str | None]:
        """An alias's moves, oldest first, and its ETag; none and None where there is no such alias."""
        key = self._place.alias(name, alias)
        try:
            blob = self._store.get(key)
        except NotFoundError:
            return [], None
        return parse_alias(blob.data, alias, self._store.uri(key)), blob.etag

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
        move = Move(secrets.token_hex(16), now, by or myself(), source, target, reason.strip(), alias, action)
        key, data = self._place.alias(name, alias), alias_bytes(alias, [*moves, move])
        written = self._store.put_if_absent(key, data) if etag is None else self._store.replace_if(key, data, etag)
        # A write whose answer was lost is tried again by boto, and then refused because of itself.
        if not written and move.id not in {m.id for m in self._moves(name, alias)[0]}:
            return None
        log.info("%s@%s: %s → %s (%s)", name, alias, source, target, move.reason)
        return move

    def _confirm(self, name: str, move: Move, before: Sequence[Move]) -> bool:
        """Take a move back if a `gc` has begun to remove its target; see `Collector._retire`.

        Returns:
            Whether the alias holds the move. In S3 it always does. SeaweedFS now and then lets two of many writers pass
            that race with one ETag; the one whose move was overwritten finds out here.
        """
        try:
            self._versions.check_whole(name, move.target)
        except (NotFoundError, FormatError):
            moves, etag = self._moves(name, move.alias)
            if etag is not None and moves[-1].id == move.id:
                key = self._place.alias(name, move.alias)
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
            return f"{self._place.uri}/{name} has no alias {alias}"
        last = moves[-1]
        return f"{self._place.uri}/{name}@{alias} names {last.target} since {last.when} by {last.by} ({last.reason})"

    def _no_alias(self, name: str, alias: str) -> NotFoundError:
        others = ", ".join(sorted(self.of(name))) or "none"
        return NotFoundError(
            f"{self._place.uri}/{name} has no alias {alias!r} (there is: {others}): check the name, or promote."
        )


def _check_move(name: str, alias: str, reason: str) -> None:
    checked_alias(alias)
    if not reason.strip():
        raise RegistryError(f"a move of {name}@{alias} needs a reason: say why, it is kept in the history.")
