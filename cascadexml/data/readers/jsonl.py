"""JSON lines (one record a line), or one JSON array of records; plain or compressed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from cascadexml.config import DownloadSettings
from cascadexml.data.readers.records import (
    Row,
    join_text,
    load_json,
    opened,
    parse_id,
    parse_labels,
    text_columns,
    to_table,
)
from cascadexml.errors import DataError

# Half of a surrogate pair can be escaped in JSON, but is no character and cannot be written as UTF-8.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF = "the record holds half of a surrogate pair"


def read_jsonl(path: Path, settings: DownloadSettings) -> pa.Table:
    """RawRecords of one file; a line that is no record becomes a row whose `error` says why.

    Raises:
        DataError: the file cannot be read as a whole.
    """
    return to_table(_rows(path, settings), path.name)


def _rows(path: Path, settings: DownloadSettings) -> Iterator[Row]:
    with opened(path) as lines:
        first = True
        for number, line in enumerate(lines, start=1):
            if first:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            if first and line.lstrip().startswith(b"["):
                break
            first = False
            yield _parse_line(number, line, settings)
        else:
            return
    records = load_json(path)
    if not isinstance(records, list):
        raise DataError(f"{path} holds no list of records: expected JSON lines or one JSON array.")
    for number, record in enumerate(records, start=1):
        yield to_row(number, record, settings) if _is_text(record) else Row(number, error=_HALF)


def _parse_line(number: int, line: bytes, settings: DownloadSettings) -> Row:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return Row(number, error="the line is not UTF-8")
    except (ValueError, RecursionError) as error:
        return Row(number, error=f"the line is not JSON: {error}")
    if _SURROGATE.search(line) and not _is_text(record):
        return Row(number, error=_HALF)
    return to_row(number, record, settings)


def _is_text(record: Any) -> bool:
    try:
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def to_row(number: int, record: Any, settings: DownloadSettings) -> Row:
    """The row of one decoded record; its `error` names the key that has a wrong type."""
    if not isinstance(record, dict):
        return Row(number, error=f"the line holds a {type(record).__name__}, expected a JSON object")
    columns = settings.columns
    texts = text_columns(columns.text)
    row = Row(number)
    taken = {columns.id, columns.labels, *(texts if len(texts) == 1 else ())}
    row.metadata = {key: value for key, value in record.items() if key not in taken}
    try:
        found = record.get(columns.id)
        row.id = None if found is None else parse_id(found, columns.id)
        row.labels = parse_labels(record.get(columns.labels), settings.label_separator)
        parts = [record.get(name) for name in texts]
        for name, part in zip(texts, parts, strict=True):
            if part is not None and not isinstance(part, str):
                raise ValueError(f"{name} is a {type(part).__name__}, expected a string")
        row.text = join_text(parts)
    except ValueError as error:
        row.error = str(error)
    return row
