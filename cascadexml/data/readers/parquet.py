"""Parquet files with id, text and label columns."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cascadexml.config import DownloadSettings
from cascadexml.data.readers.records import CHUNK, RECORD_SCHEMA, concatenate, metadata_name, parse_labels, text_columns
from cascadexml.errors import DataError


def read_parquet(path: Path, settings: DownloadSettings) -> pa.Table:
    """RawRecords of one file; `source_line` is the number of the row, from 1.

    Raises:
        DataError: the file is damaged, lacks a column that the settings name, or a column has an unusable type.
    """
    try:
        return concatenate(list(_chunks(path, settings)))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet ({' '.join(str(error).split())}): check the file.") from None


def _chunks(path: Path, settings: DownloadSettings) -> Iterator[pa.Table]:
    columns = settings.columns
    texts = text_columns(columns.text)
    with pq.ParquetFile(path) as file:
        header = file.schema_arrow.names
        for name in (columns.id, columns.labels, *texts):
            if name not in header:
                raise DataError(f"{path} has no column {name!r}, it has {', '.join(header)}: set download.columns.")
        taken = {columns.id, columns.labels, *(texts if len(texts) == 1 else ())}
        line = 1
        for batch in file.iter_batches(batch_size=CHUNK):
            n = batch.num_rows
            labels, errors = _labels(batch.column(columns.labels), settings.label_separator)
            table = pa.table(
                {
                    "id": _strings(batch.column(columns.id), path, columns.id),
                    "text": _joined([_strings(batch.column(name), path, name) for name in texts]),
                    "labels": labels,
                    "source_file": pa.repeat(path.name, n),
                    "source_line": pa.array(range(line, line + n), pa.int64()),
                    "error": errors,
                },
                schema=RECORD_SCHEMA,
            )
            for name in header:
                if name not in taken:
                    table = table.append_column(metadata_name(name), _plain(batch.column(name)))
            line += n
            yield table
        if line == 1:
            yield RECORD_SCHEMA.empty_table()


def _plain(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _strings(column: pa.Array, path: Path, name: str) -> pa.Array:
    column = _plain(column)
    kind = column.type
    textual = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (textual or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise DataError(f"{path}: column {name!r} holds {kind}, expected strings.")
    return column.cast(pa.string())


def _joined(parts: list[pa.Array]) -> pa.Array:
    if len(parts) == 1:
        return parts[0]
    kept = [pc.if_else(pc.equal(part, ""), None, part) for part in parts]
    joined = pc.binary_join_element_wise(*kept, " ", null_handling="skip")
    present = pc.max_element_wise(*[pc.is_valid(part).cast(pa.int8()) for part in parts])
    return pc.if_else(pc.equal(present, 1), joined, None)


def _labels(column: pa.Array, separator: str) -> tuple[pa.Array, pa.Array]:
    """list<string> and, per row, why its labels could not be read."""
    column = _plain(column)
    kind, n = column.type, len(column)
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if listed and not pa.types.is_floating(kind.value_type) and pc.list_flatten(column).null_count == 0:
        return column.cast(RECORD_SCHEMA.field("labels").type), pa.nulls(n, pa.string())
    labels: list[list[str] | None] = [None] * n
    errors: list[str | None] = [None] * n
    for row, value in enumerate(column.to_pylist()):
        try:
            labels[row] = parse_labels(value, separator)
        except ValueError as error:
            errors[row] = str(error)
    return pa.array(labels, RECORD_SCHEMA.field("labels").type), pa.array(errors, pa.string())
