"""Readers: one source format a file, each giving raw records (see `cascadexml.readers.records`)."""

import logging
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from cascadexml.config import DownloadSettings
from cascadexml.data.readers.delimited import read_csv, read_tsv
from cascadexml.data.readers.jsonl import read_jsonl
from cascadexml.data.readers.matrix import find_file, is_matrix_layout, read_matrix
from cascadexml.data.readers.parquet import read_parquet
from cascadexml.data.readers.records import OPENERS, RECORD_SCHEMA, RawData, load_json
from cascadexml.errors import DataError

__all__ = ["RECORD_SCHEMA", "RawData", "read"]

log = logging.getLogger(__name__)

READERS: dict[str, Callable[[Path, DownloadSettings], pa.Table]] = {
    "jsonl": read_jsonl,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
}
FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
SPLITS = ("train", "dev", "test")
LABEL_NAMES = "label_texts"


def read(folder: Path, settings: DownloadSettings) -> RawData:
    """Read a source: a folder with train.* and perhaps dev.*, test.* and label_texts.json, or one file of records.

    With `format: auto` the file names tell the format. A folder that holds nothing but one folder stands for that one.

    Raises:
        DataError: there is nothing to read, two files claim one split, or a file cannot be read as a whole. A bad line
            is no error: it becomes a row that says so.
    """
    if folder.is_file():
        return _checked(RawData({"train": _read_file(folder, settings)}, {}, (folder,)), settings)
    folder = _innermost(folder)
    if settings.format in ("xmc", "pecos") or (settings.format == "auto" and is_matrix_layout(folder)):
        return read_matrix(folder)
    files = {split: file for split in SPLITS if (file := _split_file(folder, split, settings))}
    if not files:
        files = {"train": _only_file(folder, settings)}
    if "train" not in files:
        raise DataError(f"{folder} has a {next(iter(files))} file and no train file: add one, such as train.jsonl.")
    splits = {split: _read_file(file, settings) for split, file in files.items()}
    names_file = find_file(folder, f"{LABEL_NAMES}.json")
    names = _label_names(names_file) if names_file else {}
    used = (*files.values(), *([names_file] if names_file else []))
    return _checked(RawData(splits, names, used), settings)


def _innermost(folder: Path) -> Path:
    """Archives often hold one folder with everything in it."""
    while True:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
        if len(entries) != 1 or not entries[0].is_dir():
            return folder
        folder = entries[0]


def _format_of(file: Path) -> str | None:
    bare = file.with_suffix("") if file.suffix.lower() in OPENERS else file
    return FORMATS.get(bare.suffix.lower())


def _split_file(folder: Path, split: str, settings: DownloadSettings) -> Path | None:
    found = sorted(file for file in folder.iterdir() if file.is_file() and file.name.split(".")[0] == split)
    if settings.format == "auto":
        found = [file for file in found if _format_of(file)]
    else:
        found = [file for file in found if _format_of(file) == settings.format] or found
    if len(found) > 1:
        raise DataError(f"{folder} holds {found[0].name} and {found[1].name}: keep one, or set download.format.")
    return found[0] if found else None


def _only_file(folder: Path, settings: DownloadSettings) -> Path:
    found = sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and _format_of(file) and file.name.split(".")[0] != LABEL_NAMES
    )
    if settings.format != "auto":
        found = [file for file in found if _format_of(file) == settings.format]
    if len(found) != 1:
        what = f"{len(found)} files that could be it" if found else "no file of a known format"
        raise DataError(f"{folder} has no train file and {what}: name the records train.jsonl, .csv, .tsv or .parquet.")
    log.info("%s is the only file of records: train, dev and test are made from it", found[0].name)
    return found[0]


def _read_file(file: Path, settings: DownloadSettings) -> pa.Table:
    kind = _format_of(file) if settings.format == "auto" else settings.format
    if kind not in READERS:
        raise DataError(f"{file} has a name that tells no format: set download.format to {', '.join(READERS)}.")
    return READERS[kind](file, settings)


def _label_names(path: Path) -> dict[str, str]:
    names = load_json(path)
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise DataError(f"{path} must be one JSON object of label id and name, such as {{'sport': 'Sports'}}.")
    return names


def _checked(data: RawData, settings: DownloadSettings) -> RawData:
    """Refuse records that all lack the id, the text or the labels: then the settings name a wrong key."""
    for split, table in data.splits.items():
        if not table.num_rows:
            continue
        for column in ("id", "text", "labels"):
            if table.column(column).null_count == table.num_rows:
                error = next((e for e in table.column("error").to_pylist() if e), None)
                key = getattr(settings.columns, column)
                reason = f"the first says: {error}" if error else f"the others are {', '.join(_other_keys(table))}"
                raise DataError(
                    f"No record of {split} has a {key!r} that can be read ({reason}): set download.columns."
                )
    return data


def _other_keys(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name not in RECORD_SCHEMA.names] or ["none"]
