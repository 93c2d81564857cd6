"""Making dev and test out of train when the source has none, and cutting splits down for a small run.

Both go by a hash of the record's id, so a record's place does not depend on the order of the file or on other records.
"""

import hashlib
import logging
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cascadexml.config import SplitSettings
from cascadexml.errors import DataError

HELD_OUT = ("dev", "test")

log = logging.getLogger(__name__)


def fill_splits(splits: Mapping[str, pa.Table], settings: SplitSettings) -> dict[str, pa.Table]:
    """Train, dev and test: splits that the source has are left as they are, missing ones are taken out of train.

    With method `hash` a record's split follows from its id alone, so it stays when records are added. With `time` the
    newest records by `column` are test and the next newest dev; records of one moment are ordered by the hash. With
    `column` the source says it. Records without an id (or, for `time`, without a time) stay in train.

    Args:
        splits: RawRecords by split; "train" is required.
        settings: the method; `dev` and `test` are shares of the records given.

    Raises:
        DataError: the column is missing or holds something else than it should, or train would be left empty.
    """
    train = splits["train"]
    missing = [name for name in HELD_OUT if name not in splits]
    if not missing:
        return dict(splits)
    if settings.method != "hash" and settings.column not in train.column_names:
        raise DataError(
            f"download.split.column is {settings.column!r}, which the records lack (they have "
            f"{', '.join(train.column_names)}): name one of these, or set download.split.method to hash."
        )
    if settings.method == "column":
        place = _by_column(train, str(settings.column), missing)
    else:
        shares = {name: settings.dev if name == "dev" else settings.test for name in missing}
        place = _by_hash(train, shares) if settings.method == "hash" else _by_time(train, str(settings.column), shares)
    kept = train.filter(pa.array(place == "train"))
    if train.num_rows and not kept.num_rows:
        raise DataError("No record is left for train: lower download.split.dev and download.split.test.")
    result = {"train": kept, **{name: splits[name] for name in splits if name != "train"}}
    for name in missing:
        result[name] = train.filter(pa.array(place == name))
        log.info("%s: %d of %d records taken out of train", name, result[name].num_rows, train.num_rows)
        if not result[name].num_rows:
            log.warning("%s is empty: the source has few records for its share", name)
    return {name: result[name] for name in ("train", *HELD_OUT)}


def limit_splits(splits: Mapping[str, pa.Table], limit: int) -> dict[str, pa.Table]:
    """At most `limit` records of train, and a fifth of that (at least one) of each other split.

    Those with the smallest hashes of their ids are kept, in their order: the same ones each time, and a smaller limit
    keeps a subset of what a larger one keeps.
    """
    result = {}
    for name, table in splits.items():
        size = limit if name == "train" else max(1, limit // 5)
        if table.num_rows > size:
            hashes = id_hashes(table.column("id"), "limit")
            keep = np.sort(np.argsort(hashes, kind="stable")[:size])
            table = table.take(pa.array(keep))
        result[name] = table
    return result


def id_hashes(ids: pa.ChunkedArray, purpose: str) -> npt.NDArray[np.float64]:
    """A number in [0, 1) per id (N,), drawn by BLAKE2b from the id and the purpose; 1 for a null id.

    Different purposes give independent numbers: else a subset by one would be lopsided for another.
    """
    key = purpose.encode()
    digests = b"".join(
        b"\xff" * 8 if i is None else hashlib.blake2b(i.encode(), digest_size=8, person=key).digest()
        for chunk in ids.chunks
        for i in chunk.to_pylist()
    )
    # 53 bits fill a float64 exactly, so 1.0 is out of reach for a real id.
    hashes = (np.frombuffer(digests, dtype="<u8") >> np.uint64(11)).astype(np.float64) / 2.0**53
    hashes[np.asarray(pc.is_null(ids))] = 1.0
    return hashes


def _by_hash(train: pa.Table, shares: dict[str, float]) -> npt.NDArray[np.str_]:
    hashes = id_hashes(train.column("id"), "split")
    place = np.full(train.num_rows, "train")
    low = 0.0
    for name in reversed(shares):
        high = low + shares[name]
        place[(hashes >= low) & (hashes < high)] = name
        low = high
    return place


def _by_time(train: pa.Table, column: str, shares: dict[str, float]) -> npt.NDArray[np.str_]:
    times = train.column(column)
    if pa.types.is_nested(times.type) or pa.types.is_boolean(times.type):
        raise DataError(f"download.split.column: {column!r} holds {times.type}, expected numbers, dates or text.")
    placed = np.asarray(pc.and_(pc.is_valid(times), pc.is_valid(train.column("id"))))
    ranks = np.asarray(pc.rank(times, sort_keys="ascending", tiebreaker="dense"), dtype=np.int64)
    newest_first = np.lexsort((id_hashes(train.column("id"), "split"), -ranks))
    newest_first = newest_first[placed[newest_first]]
    place = np.full(train.num_rows, "train")
    start = 0
    for name in reversed(shares):
        stop = start + round(shares[name] * newest_first.size)
        place[newest_first[start:stop]] = name
        start = stop
    return place


def _by_column(train: pa.Table, column: str, missing: list[str]) -> npt.NDArray[np.str_]:
    values = train.column(column)
    readable = np.asarray(pc.and_(pc.is_null(train.column("error")), pc.is_valid(train.column("id"))))
    place = np.array(values.to_pylist(), dtype=object)
    wrong = readable & ~np.isin(place, ["train", *missing])
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        where = f"{train.column('source_file')[row]}, line {train.column('source_line')[row]}"
        raise DataError(f"{where}: {column!r} is {place[row]!r}, expected one of {', '.join(['train', *missing])}.")
    place[~readable] = "train"
    return place.astype(str)
