"""Vocabulary: label id ↔ row ↔ name. Rows never move once a model has been trained on them."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cascadexml.bundle import Format, beside
from cascadexml.checked_json import list_of, object_of, read_json, strings_of, whole
from cascadexml.errors import FormatError

FORMAT = Format("cascadexml.vocabulary", 1)


@dataclass(frozen=True)
class Vocabulary:
    """The labels of a corpus and the rows that stand for them.

    Attributes:
        ids: row → label id; unique.
        names: row → label name, None where there is none.
        L: rows [0, L) are what the model ranks: the labels of train. Rows [L, len) occur only in dev or test; they
            count against recall.
    """

    ids: tuple[str, ...]
    names: tuple[str | None, ...]
    L: int

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names) or not 0 <= self.L <= len(self.ids):
            raise ValueError(f"{len(self.ids)} ids, {len(self.names)} names and L = {self.L} do not fit together")
        if len(self._rows) != len(self.ids):
            raise ValueError(f"label id {_first_duplicate(self.ids)!r} stands twice")

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {label_id: row for row, label_id in enumerate(self.ids)}

    @cached_property
    def _arrow_ids(self) -> pa.Array:
        return pa.array(self.ids, pa.string())

    def row(self, label_id: str) -> int:
        """The row of a label id, -1 where it is unknown."""
        return self._rows.get(label_id, -1)

    def rows(self, label_ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int32]:
        """The row of each of n label ids (n,), -1 where one is unknown or null."""
        found = pc.fill_null(pc.index_in(label_ids, value_set=self._arrow_ids, skip_nulls=True), -1)
        # Arrow's arrays are read-only views; astype copies.
        return cast(npt.NDArray[np.int32], found.to_numpy().astype(np.int32))

    def label(self, row: int) -> tuple[str, str | None]:
        """(id, name) of a row in [0, len).

        Raises:
            IndexError: there is no such row.
        """
        if row < 0:
            raise IndexError(f"row {row} is negative")
        return self.ids[row], self.names[row]

    @classmethod
    def build(cls, ranked: Iterable[str], others: Iterable[str], names: Mapping[str, str]) -> "Vocabulary":
        """A first vocabulary: `ranked` sorted by id as rows [0, L), then those of `others` that are not in it."""
        return cls((), (), 0).extend(ranked, names, others)

    def extend(self, ids: Iterable[str], names: Mapping[str, str], others: Iterable[str] = ()) -> "Vocabulary":
        """A vocabulary that also ranks `ids`, for training again on newer records.

        Rows [0, L) stay where they are. The ids that are not among them become rows L, L + 1, … in order of id. The
        labels that occur only in dev or test (those of this vocabulary and `others`) follow; no model holds weights
        for these, so they may move. A name in `names` replaces an older one.
        """
        kept = self.ids[: self.L]
        known = set(kept)
        ranked = kept + tuple(sorted(set(ids) - known))
        known.update(ranked)
        tail = sorted((set(self.ids[self.L :]) | set(others)) - known)
        all_ids = ranked + tuple(tail)
        older = dict(zip(self.ids, self.names, strict=True))
        return Vocabulary(all_ids, tuple(names.get(i, older.get(i)) for i in all_ids), len(ranked))

    def to_json(self) -> str:
        """One JSON object that carries a digest of its own content: what `save` writes."""
        content = {"ids": list(self.ids), "names": list(self.names), "L": self.L}
        document = {"kind": FORMAT.kind, "version": FORMAT.version, "sha256": _digest(content), **content}
        return json.dumps(document, ensure_ascii=False, indent=0) + "\n"

    def save(self, path: Path) -> None:
        """Write to `path` as one JSON file."""
        with beside(path) as new:
            new.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path, *, digest: bool = True) -> "Vocabulary":
        """Read what `save` wrote.

        Args:
            path: the file.
            digest: compare the content with the SHA-256 in it; needless where a manifest's has just been compared.

        Raises:
            FormatError: the file is missing, truncated, changed, of another version, or holds an id twice.
        """
        try:
            document = object_of(read_json(path))
            kind, version = document["kind"], document["version"]
        except FileNotFoundError:
            raise FormatError(f"{path} is missing: expected a vocabulary; check the path.") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{path} cannot be read as a vocabulary ({error!r}): make it again.") from None
        FORMAT.check(kind, version, path)
        try:
            content = {"ids": document["ids"], "names": document["names"], "L": document["L"]}
            if digest and document["sha256"] != _digest(content):
                raise FormatError(f"{path} differs from the SHA-256 in it: fetch or make it again.")
            ids, names = strings_of(content, "ids"), list_of(content, "names")
            if not all(name is None or isinstance(name, str) for name in names):
                raise ValueError("a name is neither a string nor null")
            return cls(tuple(ids), tuple(names), whole(content, "L"))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} is not a well-formed vocabulary ({error}): make it again.") from None


def _digest(content: Mapping[str, object]) -> str:
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _first_duplicate(ids: tuple[str, ...]) -> str:
    seen: set[str] = set()
    return next(i for i in ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
