"""Accepted batches: records that came after the source, one Parquet file of RawRecords each, and adding them to it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cascadexml.bundle import sha256_of
from cascadexml.config import AcceptedSettings
from cascadexml.data.readers.records import RECORD_SCHEMA
from cascadexml.data.splitting import id_hashes
from cascadexml.errors import DataError

COLUMN = "batch"
"""The metadata column that names a record's batch; null for the source's own records."""
REQUIRED = ("id", "text", "labels")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """One file of accepted records: its name without the ending, the digest of its bytes, its RawRecords."""

    name: str
    file: Path
    sha256: str
    records: pa.Table


def read_batches(folder: Path) -> list[Batch]:
    """Read every Parquet file of a folder, in order of name; none where there is no such folder.

    A file must have the columns id, text and labels of RawRecords; where it lacks the others, `source_file` is the
    file's name, `source_line` the row's number from 1, and `error` is null. A README.md and hidden files are passed
    over.

    Raises:
        DataError: a file is no Parquet file or damaged, lacks a column, or a column has the wrong type.
    """
    if not folder.is_dir():
        return []
    files = sorted(file for file in folder.iterdir() if file.name != "README.md" and not file.name.startswith("."))
    for file in files:
        if file.suffix != ".parquet" or not file.is_file():
            raise DataError(f"{file} is no accepted batch: expected Parquet files (.parquet) alone; move it away.")
    return [Batch(file.stem, file, sha256_of(file), _read(file)) for file in files]


def add_batches(
    splits: Mapping[str, pa.Table], batches: Sequence[Batch], settings: AcceptedSettings, known: pa.ChunkedArray
) -> tuple[dict[str, pa.Table], list[dict[str, Any]]]:
    """Put the records of accepted batches into train, dev and test.

    A hash of the id alone decides, so that a record which once was held out stays held out in every later run. Of
    records with one id the first counts: the source's, then that of the first batch in the order given. Metadata
    columns that one side lacks are null there.

    Args:
        splits: RawRecords of train, dev and test.
        batches: as `read_batches` gives them.
        settings: the shares of dev and test.
        known: ids of the source, whether or not they are in `splits`.

    Returns:
        RawRecords by split with the column `batch`, and for each batch its name, digest and counts. Without batches
        the splits as they were.

    Raises:
        DataError: a metadata column of a batch has another type than that of the source or of an earlier batch.
    """
    if not batches:
        return dict(splits), []
    parts = {name: [_labelled(table, None)] for name, table in splits.items()}
    types: dict[str, pa.DataType] = {}
    for (table,) in parts.values():
        types = {field.name: field.type for field in table.schema if not pa.types.is_null(field.type)} | types
    seen: set[str] = set()
    told = []
    for batch in batches:
        table = _aligned(_labelled(batch.records, batch.name), types, batch.file)
        new = ~np.asarray(pc.is_in(table["id"], value_set=pc.unique(known).drop_null())) & _first(table["id"], seen)
        table = table.filter(pa.array(new))
        place = _places(table["id"], settings)
        counts = {}
        for name, joined in parts.items():
            joined.append(table.filter(pa.array(place == name)))
            counts[name] = joined[-1].num_rows
        duplicates = int(new.size - new.sum())
        log.info("batch %s: %s, %d with a known id skipped", batch.name, counts, duplicates)
        told.append({"name": batch.name, "sha256": batch.sha256, "records": counts, "duplicates": duplicates})
    return {name: pa.concat_tables(joined, promote_options="permissive") for name, joined in parts.items()}, told


def _read(file: Path) -> pa.Table:
    try:
        with pq.ParquetFile(file) as source:
            table = source.read()
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{file} cannot be read as Parquet ({reason}): write it again or move it away.") from None
    for name in REQUIRED:
        if name not in table.column_names:
            raise DataError(
                f"{file} has no column {name!r}, it has {', '.join(table.column_names)}: expected id, text and labels."
            )
    n = table.num_rows
    absent = {"source_file": pa.repeat(file.name, n), "source_line": pa.array(range(1, n + 1), pa.int64())}
    columns = {}
    for field in RECORD_SCHEMA:
        if field.name in table.column_names:
            columns[field.name] = _cast(table[field.name], field.type, f"{file}: column {field.name!r}")
        else:
            columns[field.name] = absent.get(field.name, pa.nulls(n, field.type))
    for name in table.column_names:
        if name not in columns:
            column = table[name]
            kind = column.type
            columns[name] = column.cast(kind.value_type) if pa.types.is_dictionary(kind) else column
    return pa.table(columns)


def _labelled(table: pa.Table, name: str | None) -> pa.Table:
    """The table with the column `batch`; a column that already bears that name is renamed as readers rename theirs."""
    if COLUMN in table.column_names:
        renamed = [f"{c}_in_source" if c == COLUMN else c for c in table.column_names]
        table = table.rename_columns(renamed)
    return table.append_column(COLUMN, pa.array([name] * table.num_rows, pa.string()))


def _aligned(table: pa.Table, types: dict[str, pa.DataType], file: Path) -> pa.Table:
    """The table with metadata columns of the types known so far, to which its own new ones are added."""
    columns = {}
    for name in table.column_names:
        column = table[name]
        if not pa.types.is_null(column.type):
            wanted = types.setdefault(name, column.type)
            column = _cast(column, wanted, f"{file}: metadata column {name!r}")
        columns[name] = column
    return pa.table(columns)


def _cast(column: pa.ChunkedArray, wanted: pa.DataType, where: str) -> pa.ChunkedArray:
    """The column as `wanted` where that is the same kind of value and loses nothing."""
    if column.type == wanted:
        return column
    if pa.types.is_null(column.type) or _kind(column.type) == _kind(wanted):
        try:
            return column.cast(wanted)
        except pa.ArrowException:
            pass
    raise DataError(f"{where} holds {column.type}, expected {wanted}: convert the column or move the file away.")


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return f"list of {_kind(type_.value_type)}"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return "text"
    return "number" if pa.types.is_integer(type_) or pa.types.is_floating(type_) else str(type_)


def _first(ids: pa.ChunkedArray, seen: set[str]) -> npt.NDArray[np.bool_]:
    """(n,) whether an id has not been seen before, null ids always; adds them to `seen`."""
    new = np.ones(len(ids), dtype=np.bool_)
    for row, record_id in enumerate(ids.to_pylist()):
        new[row] = record_id is None or record_id not in seen
        if record_id is not None:
            seen.add(record_id)
    return new


def _places(ids: pa.ChunkedArray, settings: AcceptedSettings) -> npt.NDArray[np.str_]:
    hashes = id_hashes(ids, "accepted")
    # Test lies lowest, so that a changed share of dev leaves it alone.
    place: npt.NDArray[np.str_] = np.select(
        [hashes < settings.test, hashes < settings.test + settings.dev], ["test", "dev"], default="train"
    )
    return place
