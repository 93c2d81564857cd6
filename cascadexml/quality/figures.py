"""Figures: what the kept records of each split look like, alone and beside the other splits."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cascadexml.config import ValidateSettings
from cascadexml.quality.rules import (
    COLUMNS,
    DAMAGE,
    REASONS,
    Screened,
    codes_of,
    damaged,
    first_of_pairs,
    matches,
    rejects_table,
    repeats,
    screen,
    trimmed,
)

SHARES = {
    "refused_share": "refused",
    "duplicate_share": "duplicates",
    "leak_share": "leaked",
    "unseen_label_share": "unseen_labels",
    "damaged_share": "damaged",
}
"""Share → the count above the line. Each share has its bound in ValidateSettings, as max_<share>."""

ABSENT, EMPTY = "absent", "empty"


@dataclass(frozen=True)
class Measured:
    """Everything known about the raw records before an expectation is checked.

    Attributes:
        kept: RawRecords by split, without those refused.
        rejects: the refused records of all splits: split, the columns of RawRecords, reason, metadata as JSON.
        facts: by split, one row a kept record: id, n_chars, n_labels and flags. What expectations on records read.
        figures: by split, counts and shares. What expectations on splits read, and what summary.json shows.
    """

    kept: dict[str, pa.Table]
    rejects: pa.Table
    facts: dict[str, pa.Table]
    figures: dict[str, dict[str, Any]]


def measure(records: Mapping[str, pa.Table], label_names: Mapping[str, str], settings: ValidateSettings) -> Measured:
    """Screen every split, then count what the kept records have in common.

    Texts are compared without white space at either end. Leaks are counted against train, and against every split that
    stands before a split in `records`: a test text that stands in dev has helped to choose the model.

    Args:
        records: RawRecords by split, train first.
        label_names: label id → name; may be empty.
        settings: the bounds.

    Raises:
        DataError: a table is not RawRecords.
    """
    screened = {split: screen(table, settings, split) for split, table in records.items()}
    kept = {split: result.kept for split, result in screened.items()}
    facts = {split: _facts(split, kept) for split in kept}
    figures = {
        split: _counts(result) | _content(facts[split], result.kept) | _labels(result.kept, kept["train"], label_names)
        for split, result in screened.items()
    }
    for split, counted in figures.items():
        totals = {"refused_share": counted["read"], "unseen_label_share": counted["labels"]}
        for share, count in SHARES.items():
            counted[share] = counted[count] / max(totals.get(share, counted["kept"]), 1)
        counted["metadata"] = _metadata_kinds(records, split)
    return Measured(kept, rejects_table(screened), facts, figures)


def _counts(result: Screened) -> dict[str, Any]:
    reasons = Counter(result.reasons.to_pylist())
    kept, refused = result.kept.num_rows, result.rejected.num_rows
    return {
        "read": kept + refused,
        "kept": kept,
        "refused": refused,
        "refused_for": {reason: reasons[reason] for reason in REASONS if reasons[reason]},
        "repaired": result.repaired,
        "labels_removed": result.labels_removed,
    }


def _facts(split: str, kept: Mapping[str, pa.Table]) -> pa.Table:
    table = kept[split]
    text = trimmed(table.column("text"))
    labels = table.column("labels")
    facts = {
        "id": table.column("id"),
        "n_chars": pc.utf8_length(text),
        "n_labels": pc.list_value_length(labels),
        "n_distinct_labels": _distinct(labels),
        "text_is_damaged": damaged(text),
        "text_stands_earlier": repeats(text),
    }
    for earlier in list(kept)[: list(kept).index(split)]:
        theirs = kept[earlier]
        facts[f"text_stands_in_{earlier}"] = pc.is_in(text, value_set=pc.unique(trimmed(theirs.column("text"))))
        facts[f"id_stands_in_{earlier}"] = pc.is_in(table.column("id"), value_set=pc.unique(theirs.column("id")))
    return pa.table(facts)


def _distinct(labels: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    lengths = np.asarray(pc.list_value_length(labels), dtype=np.int64)
    parents = np.repeat(np.arange(len(labels)), lengths)
    first = first_of_pairs(parents, codes_of(pc.list_flatten(labels)))
    return np.bincount(parents[first], minlength=len(labels))


def _content(facts: pa.Table, kept: pa.Table) -> dict[str, Any]:
    text = trimmed(kept.column("text"))
    kinds = {kind: int(matches(text, pattern).sum()) for kind, pattern in DAMAGE.items()}
    shared = {name: _total(facts, name) for name in facts.column_names if "_stands_in_" in name}
    return {
        "damaged": _total(facts, "text_is_damaged"),
        "damaged_by": {kind: count for kind, count in kinds.items() if count},
        "duplicates": _total(facts, "text_stands_earlier"),
        "leaked": shared.get("text_stands_in_train", 0),
        **shared,
    }


def _total(facts: pa.Table, flag: str) -> int:
    return int(pc.sum(facts.column(flag), min_count=0).as_py())


def _labels(kept: pa.Table, train: pa.Table, label_names: Mapping[str, str]) -> dict[str, Any]:
    used = pc.list_flatten(kept.column("labels"))
    unseen = used.filter(pc.invert(pc.is_in(used, value_set=pc.unique(pc.list_flatten(train.column("labels"))))))
    distinct = pc.unique(used)
    named = pc.sum(pc.is_in(distinct, value_set=pa.array(list(label_names), pa.string())), min_count=0).as_py()
    return {
        "labels": len(used),
        "distinct_labels": len(distinct),
        "unseen_labels": len(unseen),
        "distinct_unseen_labels": len(pc.unique(unseen)),
        # A source without any names is no mistake.
        "unnamed_labels": len(distinct) - named if label_names else 0,
    }


def _metadata_kinds(records: Mapping[str, pa.Table], split: str) -> dict[str, str]:
    names = sorted({name for table in records.values() for name in table.column_names} - set(COLUMNS))
    schema = records[split].schema
    return {name: _kind(schema.field(name).type) if name in schema.names else ABSENT for name in names}


def _kind(arrow: pa.DataType) -> str:
    """Types that a reader may infer for one and the same column count as one kind: 1 and 1.5, date and time stamp."""
    tests = {
        EMPTY: pa.types.is_null,
        "boolean": pa.types.is_boolean,
        "number": lambda t: pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t),
        "string": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
        "time": pa.types.is_temporal,
        "list": lambda t: pa.types.is_list(t) or pa.types.is_large_list(t),
        "object": lambda t: pa.types.is_struct(t) or pa.types.is_map(t),
    }
    return next((kind for kind, test in tests.items() if test(arrow)), str(arrow))
