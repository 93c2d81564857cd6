"""RawRecords: what every reader gives, and the steps that readers share.

A RawRecords table is a `pyarrow.Table` with the columns

    id: string    text: string    labels: list<string>    source_file: string    source_line: int64    error: string

followed by metadata columns. `error` says why a line could not be read; its id, text and labels may then be null. A
reader drops nothing: refusing records, with reasons, is the work of `cascadexml.quality`.
"""

import bz2
import gzip
import itertools
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from cascadexml.errors import DataError

RECORD_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("source_file", pa.string()),
        ("source_line", pa.int64()),
        ("error", pa.string()),
    ]
)
CHUNK = 10_000
_APART = "_in_source"
OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}


@dataclass(frozen=True)
class RawData:
    """What a source holds: RawRecords by split, label names by id, and the files that were read."""

    splits: dict[str, pa.Table]
    label_names: dict[str, str]
    files: tuple[Path, ...] = ()


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed when its name ends in .xz, .gz or .bz2.

    Raises:
        DataError: the file cannot be opened, or turns out damaged or cut short while it is read.
    """
    try:
        with OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
            yield cast(IO[bytes], file)
    except (lzma.LZMAError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut short ({error}): fetch or compress it again.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): check the file.") from None


def load_json(path: Path) -> Any:
    """A whole JSON file, compressed or not.

    Raises:
        DataError: it cannot be read or is no JSON.
    """
    with opened(path) as file:
        content = file.read()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): mend or remove it.") from None


@dataclass(slots=True)
class Row:
    """One record on its way into a table."""

    line: int
    id: str | None = None
    text: str | None = None
    labels: list[str] | None = None
    error: str | None = None
    metadata: Mapping[str, Any] | None = None


def text_columns(columns: str) -> list[str]:
    """The source columns whose values make up a text: "title+abstract" → ["title", "abstract"]."""
    return [name.strip() for name in columns.split("+")]


def join_text(parts: Sequence[str | None]) -> str | None:
    """The parts that are there, joined by a space; None when none is."""
    if len(parts) == 1:
        return parts[0]
    return None if all(p is None for p in parts) else " ".join(p for p in parts if p)


def parse_labels(value: object, separator: str) -> list[str] | None:
    """Label ids out of a list, a separated string, or a string that holds a JSON list; None for null.

    Raises:
        ValueError: the value is none of these, or an element is neither a string nor a whole number.
    """
    if value is None:
        return None
    if isinstance(value, str):
        stripped = value.strip()
        if not stripped.startswith("["):
            return [part.strip() for part in stripped.split(separator) if part.strip()]
        try:
            value = json.loads(stripped)
        except (ValueError, RecursionError):
            raise ValueError(f"labels {_short(stripped)} is not a JSON list") from None
    if not isinstance(value, list):
        raise ValueError(f"labels is {_short(value)}, expected a list or a string")
    return [parse_id(element, "a label") for element in value]


def parse_id(value: object, what: str) -> str:
    """A string or whole number as a string.

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{what} is {_short(value)}, expected a string")


def to_table(rows: Iterable[Row], source_file: str) -> pa.Table:
    """RawRecords from rows, taken in chunks; a metadata column keeps its type where the rows agree on one."""
    iterator = iter(rows)
    chunks = []
    while chunk := list(itertools.islice(iterator, CHUNK)):
        chunks.append(_chunk_table(chunk, source_file))
    return concatenate(chunks)


def _chunk_table(rows: Sequence[Row], source_file: str) -> pa.Table:
    columns: dict[str, Any] = {
        "id": [row.id for row in rows],
        "text": [row.text for row in rows],
        "labels": [row.labels for row in rows],
        "source_file": [source_file] * len(rows),
        "source_line": [row.line for row in rows],
        "error": [row.error for row in rows],
    }
    table = pa.table(columns, schema=RECORD_SCHEMA)
    names = dict.fromkeys(name for row in rows for name in row.metadata or ())
    for name in names:
        values = [(row.metadata or {}).get(name) for row in rows]
        table = table.append_column(metadata_name(name), _metadata_array(values))
    return table


def metadata_name(name: str) -> str:
    """A metadata column's name, kept apart from the columns of RawRecords, and from those of other names."""
    bare = name
    while bare.endswith(_APART):
        bare = bare.removesuffix(_APART)
    return f"{name}{_APART}" if bare in RECORD_SCHEMA.names else name


def _metadata_array(values: Sequence[Any]) -> pa.Array:
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError):
        return pa.array([_as_text(v) for v in values], pa.string())
    # A list of plain values stays; anything deeper becomes JSON text, because Parquet cannot hold every shape of it.
    kind = array.type.value_type if pa.types.is_list(array.type) else array.type
    return pa.array([_as_text(v) for v in values], pa.string()) if pa.types.is_nested(kind) else array


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def concatenate(tables: Sequence[pa.Table]) -> pa.Table:
    """One table from chunks of one file: columns that a chunk lacks are null there, types are brought together."""
    names = dict.fromkeys(name for table in tables for name in table.column_names if name not in RECORD_SCHEMA.names)
    types = {
        name: _common_type([t.schema.field(name).type for t in tables if name in t.column_names]) for name in names
    }
    schema = pa.schema([*RECORD_SCHEMA, *(pa.field(name, kind) for name, kind in types.items())])
    aligned = [
        pa.table([_aligned(table, field) for field in schema], schema=schema) for table in tables if table.num_rows
    ]
    return pa.concat_tables(aligned) if aligned else schema.empty_table()


def _common_type(types: Sequence[pa.DataType]) -> pa.DataType:
    known = list(dict.fromkeys(t for t in types if not pa.types.is_null(t)))
    if not known:
        return pa.string()
    if len(known) == 1:
        return known[0]
    if all(pa.types.is_integer(t) or pa.types.is_floating(t) for t in known):
        return pa.float64()
    return pa.string()


def _aligned(table: pa.Table, field: pa.Field) -> pa.ChunkedArray | pa.Array:
    if field.name not in table.column_names:
        return pa.nulls(table.num_rows, field.type)
    column = table.column(field.name)
    if column.type == field.type:
        return column
    if pa.types.is_string(field.type) and not pa.types.is_string(column.type):
        return pa.array([_as_text(v) for v in column.to_pylist()], pa.string())
    return column.cast(field.type)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
