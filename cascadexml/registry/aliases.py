"""The aliases of the model registry: which version a name stands for, and all moves that brought it there."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cascadexml.errors import FormatError
from cascadexml.registry.uris import VERSION_NAME

KIND, VERSION = "cascadexml.alias", 1


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
        "kind": KIND,
        "version": VERSION,
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
        FormatError: it is no file of this alias, is damaged, or of a newer format.
    """
    try:
        document = json.loads(data)
        kind, version = document["kind"], document["version"]
        if kind == KIND and type(version) is int and version > VERSION:
            raise FormatError(
                f"{where} has format version {version}, this library reads up to {VERSION}: install a newer cascadexml."
            )
        moves = [Move(alias=alias, **move) for move in document["moves"]]
        well_formed = (
            kind == KIND
            and document["alias"] == alias
            and document["target"] == moves[-1].target
            and all(VERSION_NAME.fullmatch(move.target) and move.action in ("promote", "rollback") for move in moves)
        )
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise FormatError(f"{where} cannot be read as an alias ({error!r}): restore it from a backup.") from None
    if not well_formed:
        raise FormatError(f"{where} is not a well-formed alias: restore it from a backup.")
    return moves
