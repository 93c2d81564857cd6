"""Batch: new records as they arrive, read from any source and parted by the row rules of validation.

A batch that cannot be read at all is an error. One that can be read and holds the wrong columns is no error but a batch
that says so, and is quarantined later: nobody's mistake to mend at once, and nothing to train on.
"""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cascadexml.bundle import sha256_of
from cascadexml.config import DownloadSettings, ValidateSettings
from cascadexml.data import readers
from cascadexml.data.readers.matrix import is_matrix_layout
from cascadexml.data.readers.records import OPENERS, RECORD_SCHEMA, concatenate, opened, text_columns
from cascadexml.errors import DataError
from cascadexml.monitoring.verdict import BatchSummary
from cascadexml.quality.rules import COLUMNS, rejects_table, screen
from cascadexml.storage.addresses import public_name

log = logging.getLogger(__name__)


class _WrongColumns(Exception):  # noqa: N818 — it is caught here and becomes a reason for quarantine
    """A file that can be read has no such columns as the settings name."""


@dataclass(frozen=True)
class Batch:
    """A batch after the row rules.

    Attributes:
        id: "<stem of the source>-<12 hex digits of the SHA-256 over the accepted records>".
        source: where it came from, without what may be secret.
        records: how many were read.
        accepted: RawRecords that passed.
        rejects: the others, with the columns of `quality.rules.rejects_table`.
        has_labels: whether any record that was read has a label.
        wrong_columns: why its columns are the wrong ones; None where they are right.
    """

    id: str
    source: str
    records: int
    accepted: pa.Table
    rejects: pa.Table
    has_labels: bool
    wrong_columns: str | None = None

    @property
    def labelled(self) -> int:
        """Accepted records that have a label."""
        return int(np.count_nonzero(np.asarray(pc.list_value_length(self.accepted.column("labels")))))

    def summary(self) -> BatchSummary:
        """What a verdict tells of it."""
        return BatchSummary(
            id=self.id,
            source=self.source,
            records=self.records,
            accepted=self.accepted.num_rows,
            refused=self.rejects.num_rows,
            labelled=self.labelled,
        )


def read_batch(path: Path, source: str, download: DownloadSettings, validate: ValidateSettings) -> Batch:
    """Read a batch and part its records by the row rules of validation.

    All record files of a folder belong to the batch, whatever split their names tell. A batch of which no record has
    labels is read without them: then a record needs none.

    Args:
        path: what `fetch` gave.
        source: what it was fetched from.
        download: format and columns.
        validate: the bounds of the row rules.

    Raises:
        DataError: there is no file of records, or one is damaged.
    """
    files = [path] if path.is_file() else _record_files(path, download)
    stem = _stem(source)
    try:
        table = _read(path, files, download)
    except _WrongColumns as error:
        content = "".join(sha256_of(file) for file in files).encode()
        nothing = screen(RECORD_SCHEMA.empty_table(), validate)
        name = f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}"
        return Batch(name, public_name(source), 0, nothing.kept, rejects_table({"batch": nothing}), False, str(error))
    has_labels = bool(pc.any(pc.greater(pc.list_value_length(table.column("labels")), 0)).as_py())
    screened = screen(table, validate if has_labels else replace(validate, min_labels=0), "the batch")
    wrong = None
    if table.num_rows and not pc.count(table.column("text")).as_py():
        wrong = f"No record has a {download.columns.text!r}, the others are {_others(table)}: see download.columns."
    if not has_labels:
        log.warning("%s: no record has labels.", public_name(source))
    accepted = screened.kept
    content = _content(accepted) if accepted.num_rows else "".join(sha256_of(file) for file in files).encode()
    name = f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}"
    rejects = rejects_table({"batch": screened})
    return Batch(name, public_name(source), table.num_rows, accepted, rejects, has_labels, wrong)


def _record_files(folder: Path, download: DownloadSettings) -> list[Path]:
    visible = [f for f in sorted(folder.rglob("*")) if f.is_file() and not f.name.startswith(".")]
    if is_matrix_layout(folder) or download.format in ("xmc", "pecos"):
        return visible
    files = [f for f in visible if _format_of(f) and f.name.split(".")[0] != readers.LABEL_NAMES]
    if not files:
        raise DataError(f"{folder} has no file of a known format: expected .jsonl, .csv, .tsv or .parquet.")
    return files


def _format_of(file: Path) -> str | None:
    bare = file.with_suffix("") if file.suffix.lower() in OPENERS else file
    return readers.FORMATS.get(bare.suffix.lower())


def _read(path: Path, files: Sequence[Path], download: DownloadSettings) -> pa.Table:
    if path.is_dir() and (is_matrix_layout(path) or download.format in ("xmc", "pecos")):
        return concatenate(list(readers.read(path, download).splits.values()))
    return concatenate([_read_file(file, download) for file in files])


def _read_file(file: Path, download: DownloadSettings) -> pa.Table:
    kind = _format_of(file) if download.format == "auto" else download.format
    if kind not in readers.READERS:
        raise DataError(f"{file} has a name that tells no format: set download.format to {', '.join(readers.READERS)}.")
    read = readers.READERS[kind]
    try:
        return read(file, download)
    except DataError as error:
        _refuse_unreadable(file, kind)
        # Formats with a header refuse a file without labels: any text column stands in for them, and is taken out.
        columns = replace(download.columns, labels=text_columns(download.columns.text)[0])
        try:
            table = read(file, replace(download, columns=columns))
        except DataError:
            raise _WrongColumns(str(error)) from None
        place = table.schema.get_field_index("labels")
        return table.set_column(place, "labels", pa.nulls(table.num_rows, COLUMNS["labels"]))


def _refuse_unreadable(file: Path, kind: str) -> None:
    """Raise a DataError where the bytes themselves cannot be read, rather than what they hold."""
    if kind == "parquet":
        try:
            pq.read_table(file)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{file} cannot be read as Parquet ({reason}): check the file.") from None
        return
    with opened(file) as content:
        while content.read(1 << 20):
            pass


def _others(table: pa.Table) -> str:
    return ", ".join(name for name in table.column_names if name not in RECORD_SCHEMA.names) or "none"


def _stem(source: str) -> str:
    """The last part of a source's name, without endings and with nothing but letters, digits, dots and dashes."""
    name = public_name(source).rstrip("/").rpartition("/")[2]
    name = re.sub(r"(\.(jsonl|ndjson|json|csv|tsv|parquet|xz|gz|bz2|zip|tar|tgz|txz|tbz2))+$", "", name, flags=re.I)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")[:80] or "batch"


def _content(accepted: pa.Table) -> bytes:
    rows = zip(*(accepted.column(name).to_pylist() for name in ("id", "text", "labels")), strict=True)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
