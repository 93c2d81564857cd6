"""Row rules: which raw records are refused, why, and what the kept ones look like. All of it vectorised."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cascadexml.config import ValidateSettings
from cascadexml.data.readers.records import RECORD_SCHEMA
from cascadexml.errors import DataError

Flags = npt.NDArray[np.bool_]

COLUMNS: dict[str, pa.DataType] = dict(zip(RECORD_SCHEMA.names, RECORD_SCHEMA.types, strict=True))

REASONS = (
    "unparsable",
    "id_missing",
    "text_missing",
    "text_only_damage",
    "text_too_short",
    "text_too_long",
    "labels_missing",
    "labels_too_few",
    "labels_too_many",
    "id_duplicated",
)
"""In the order in which they are tried: a record is refused for the first that holds."""

DAMAGE = {
    "replacement_character": r"\x{FFFD}",
    "control_character": r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F]",
    # UTF-8 read as Latin-1 or Windows-1252: the lead byte of a two-byte character shows as Â or Ã before a sign that
    # no language puts there; the curly quotes and dashes of three bytes begin with â€.
    "mojibake": r"[\x{C2}\x{C3}][\x{A0}-\x{BF}\x{152}\x{153}\x{160}\x{161}\x{178}\x{17D}\x{17E}\x{192}\x{2C6}\x{2DC}"
    r"\x{2013}-\x{203A}\x{20AC}\x{2122}]|\x{E2}\x{20AC}[\x{80}-\x{2122}]?",
    "private_use_or_bom": r"[\x{E000}-\x{F8FF}\x{FEFF}]",
}
_ANY_DAMAGE = "|".join(DAMAGE.values())


@dataclass(frozen=True)
class Screened:
    """One split after the row rules; `kept` and `rejected` together hold every record read, in their order.

    Attributes:
        kept: RawRecords whose labels are free of blanks and duplicates.
        rejected: RawRecords as they were read.
        reasons: for each of `rejected`, one of REASONS.
        repaired: kept records that lost a blank or duplicated label.
        labels_removed: the labels they lost.
    """

    kept: pa.Table
    rejected: pa.Table
    reasons: pa.Array
    repaired: int
    labels_removed: int


def screen(records: pa.Table, settings: ValidateSettings, split: str = "records") -> Screened:
    """Part the records that training can use from those it cannot, with a reason for each of the latter.

    Of several records with one id the first that no other rule refuses is kept. Lengths are counted without white
    space at either end. Labels that are blank or stand twice in a record are removed, not a reason to refuse it.

    Args:
        records: RawRecords (see `cascadexml.readers`), n rows.
        settings: the bounds.
        split: its name, for messages.

    Raises:
        DataError: a column is missing or of a type that cannot be RawRecords.
    """
    records = _conform(records, split)
    labels, removed = repair_labels(records.column("labels"))
    n_labels = np.asarray(pc.list_value_length(labels))
    text = trimmed(records.column("text"))
    n_chars = np.asarray(pc.utf8_length(text))
    refused = {
        "unparsable": _flags(pc.is_valid(records.column("error"))),
        "id_missing": _flags(pc.equal(trimmed(records.column("id")), "")),
        "text_missing": n_chars == 0,
        "text_only_damage": _only_damage(text),
        "text_too_short": n_chars < settings.min_chars,
        "text_too_long": n_chars > settings.max_chars,
        "labels_missing": (n_labels == 0) & (settings.min_labels > 0),
        "labels_too_few": n_labels < settings.min_labels,
        "labels_too_many": n_labels > settings.max_labels,
    }
    acceptable = ~np.logical_or.reduce(list(refused.values()))
    refused["id_duplicated"] = np.zeros(records.num_rows, dtype=np.bool_)
    refused["id_duplicated"][acceptable] = repeats(records.column("id").filter(pa.array(acceptable)))

    first = np.select([refused[reason] for reason in REASONS], range(len(REASONS)), default=-1)
    keep = first == -1
    repaired = records.set_column(records.schema.get_field_index("labels"), "labels", labels)
    return Screened(
        kept=repaired.filter(pa.array(keep)),
        rejected=records.filter(pa.array(~keep)),
        reasons=pa.array(REASONS).take(pa.array(first[~keep])),
        repaired=int(np.count_nonzero(removed[keep])),
        labels_removed=int(removed[keep].sum()),
    )


def rejects_table(screened: Mapping[str, Screened]) -> pa.Table:
    """The refused records of all splits as one table; metadata, which may differ by split, as one JSON object a row."""
    tables = []
    for split, result in screened.items():
        table, n = result.rejected, result.rejected.num_rows
        # Only refused records pass through Python here.
        metadata = table.drop_columns(list(COLUMNS)).to_pylist() or [{}] * n
        lines = [json.dumps(row, ensure_ascii=False, default=str, sort_keys=True) for row in metadata]
        tables.append(
            table.select(list(COLUMNS))
            .add_column(0, "split", pa.array([split] * n, pa.string()))
            .append_column("reason", result.reasons)
            .append_column("metadata", pa.array(lines, pa.string()))
        )
    return pa.concat_tables(tables)


def repair_labels(labels: pa.ChunkedArray) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Remove blank and repeated labels from n lists; a null list becomes an empty one.

    Returns:
        The lists, in the order they had, and (n,) how many labels each lost.
    """
    n = len(labels)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(labels), 0), dtype=np.int64)
    values = pc.list_flatten(labels).cast(pa.large_string())
    parents = np.repeat(np.arange(n), lengths)
    named = np.flatnonzero(_flags(pc.not_equal(trimmed(values), "")))
    kept = named[np.sort(first_of_pairs(parents[named], codes_of(values)[named]))]
    left = np.bincount(parents[kept], minlength=n)
    offsets = np.concatenate([[0], np.cumsum(left)])
    chosen = values.take(pa.array(kept)).combine_chunks()
    lists = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), chosen)
    return lists.cast(COLUMNS["labels"]), lengths - left


def trimmed(strings: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without white space at either end; null becomes empty."""
    return pc.fill_null(pc.utf8_trim_whitespace(strings), "")


def codes_of(strings: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """(n,) a whole number for each of n strings, equal for equal ones; null counts as empty."""
    # 64-bit offsets: the distinct texts of a large corpus exceed 2 GiB.
    encoded = pc.dictionary_encode(pc.fill_null(strings.cast(pa.large_string()), ""))
    chunks = [np.asarray(chunk.indices, dtype=np.int64) for chunk in encoded.unify_dictionaries().chunks]
    return np.concatenate([np.zeros(0, np.int64), *chunks])


def first_of_pairs(parents: npt.NDArray[np.int64], codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each distinct pair (parent, code) stands first among n pairs."""
    # One whole number stands for a pair, so that a repeated pair is a repeated number.
    _, first = np.unique(parents * (int(codes.max(initial=0)) + 1) + codes, return_index=True)
    return np.asarray(first, dtype=np.int64)


def repeats(strings: pa.ChunkedArray) -> Flags:
    """(n,) whether an equal string stands earlier among the n."""
    codes = codes_of(strings)
    later = np.ones(codes.size, dtype=np.bool_)
    later[np.unique(codes, return_index=True)[1]] = False
    return later


def matches(strings: pa.ChunkedArray, pattern: str) -> Flags:
    """(n,) whether the RE2 pattern occurs in each of n strings."""
    return _flags(pc.match_substring_regex(strings, pattern))


def damaged(strings: pa.ChunkedArray) -> Flags:
    """(n,) whether any kind of DAMAGE occurs in each of n strings."""
    return matches(strings, _ANY_DAMAGE)


def _only_damage(text: pa.ChunkedArray) -> Flags:
    flags = damaged(text)
    rest = pc.replace_substring_regex(text.filter(pa.array(flags)), _ANY_DAMAGE, "")
    flags[flags] = _flags(pc.equal(trimmed(rest), ""))
    return flags


def _flags(values: Any) -> Flags:
    return np.array(pc.fill_null(values, False), dtype=np.bool_)


def _conform(records: pa.Table, split: str) -> pa.Table:
    for place, (name, kind) in enumerate(COLUMNS.items()):
        if name not in records.column_names:
            raise DataError(
                f"The raw records of {split} have no column {name!r}, expected {', '.join(COLUMNS)}: "
                "download them again."
            )
        column = records.column(name)
        if column.type != kind:
            try:
                column = column.cast(kind)
            except pa.ArrowException:
                raise DataError(
                    f"Column {name!r} of the raw records of {split} is {column.type}, expected {kind}: "
                    "download them again."
                ) from None
        records = records.drop_columns([name]).add_column(place, name, column)
    return records
