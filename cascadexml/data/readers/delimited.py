"""CSV and TSV with a header line; plain or compressed."""

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cascadexml.config import DownloadSettings
from cascadexml.data.readers.records import RECORD_SCHEMA, Row, join_text, opened, parse_labels, text_columns, to_table
from cascadexml.errors import DataError


def read_csv(path: Path, settings: DownloadSettings) -> pa.Table:
    """RawRecords of one CSV file; a row with a wrong number of fields or bad bytes keeps its place with an `error`.

    Empty fields are null in the id and in metadata. Metadata columns of whole numbers or of numbers become so.

    Raises:
        DataError: the file cannot be read as a whole, or its header lacks a column that the settings name.
    """
    return _typed(to_table(_rows(path, settings, ","), path.name))


def read_tsv(path: Path, settings: DownloadSettings) -> pa.Table:
    """As `read_csv`, with tabs between the fields."""
    return _typed(to_table(_rows(path, settings, "\t"), path.name))


def _rows(path: Path, settings: DownloadSettings, delimiter: str) -> Iterator[Row]:
    columns = settings.columns
    texts = text_columns(columns.text)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with opened(path) as file:
        # Bytes that are no UTF-8 come through as surrogates, so that they cost their own row and not the file.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        rows = csv.reader(text, delimiter=delimiter)
        header = next(rows, [])
        if not _is_utf8(header):
            raise DataError(
                f"the header line of {path} is not UTF-8, but perhaps Latin-1: convert the file, such as by "
                "iconv -f latin1 -t utf-8."
            )
        for name in (columns.id, columns.labels, *texts):
            if name not in header:
                raise DataError(
                    f"{path} has no column {name!r}, its header reads {', '.join(header)}: set download.columns."
                )
        place = {name: index for index, name in enumerate(header)}
        taken = {columns.id, columns.labels, *(texts if len(texts) == 1 else ())}
        metadata = [(name, index) for name, index in place.items() if name not in taken]
        line = rows.line_num + 1
        while True:
            try:
                fields = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Row(line, error=f"the row is not CSV: {error}")
                line = rows.line_num + 1
                continue
            row, line = Row(line), rows.line_num + 1
            if not fields:
                continue
            if len(fields) != len(header):
                row.error = f"the row has {len(fields)} fields, the header {len(header)}"
            elif not _is_utf8(fields):
                row.error = "the row is not UTF-8"
            else:
                row.id = fields[place[columns.id]] or None
                row.text = join_text([fields[place[name]] for name in texts])
                row.metadata = {name: fields[index] or None for name, index in metadata}
                try:
                    row.labels = parse_labels(fields[place[columns.labels]], settings.label_separator)
                except ValueError as error:
                    row.error = str(error)
            yield row


def _is_utf8(fields: list[str]) -> bool:
    try:
        "".join(fields).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _typed(table: pa.Table) -> pa.Table:
    for index, name in enumerate(table.column_names):
        if name not in RECORD_SCHEMA.names:
            table = table.set_column(index, name, _numbers(table.column(name)))
    return table


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.null_count == len(column):
        return column
    try:
        whole = column.cast(pa.int64())
        # A number that reads back otherwise, such as 007, is a code and stays text.
        return whole if pc.all(pc.equal(whole.cast(pa.string()), column)).as_py() else column
    except pa.ArrowInvalid:
        pass
    try:
        return column.cast(pa.float64())
    except pa.ArrowInvalid:
        return column
