"""Texts beside a label matrix: the layouts of the Extreme Classification Repository (`xmc`) and of PECOS (`pecos`).

Per split, one of

    X.trn.txt  + Y.trn.npz          one text a line, SciPy CSR (N, L)                   both
    trn_X.txt  + trn_X_Y.txt        one text a line, text matrix with an "N L" header   xmc
    trn.json.gz                     {"uid", "title", "content", "target_ind"} a line    xmc

and label names in `Y.txt` or `lbl.json.gz` (xmc) or `output-items.txt` (pecos). The splits are called trn and tst, and
val for dev. Every file but the .npz may be compressed. Where documents or labels have no id, their place is their id:
"train-1" for the first line, "0" for the first column.
"""

import itertools
from array import array
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from cascadexml.config import ColumnSettings, DownloadSettings
from cascadexml.data.readers.jsonl import read_jsonl
from cascadexml.data.readers.records import CHUNK, OPENERS, RECORD_SCHEMA, RawData, concatenate, opened
from cascadexml.data.sparse_files import checked_csr, read_npz
from cascadexml.errors import DataError

SPLITS = {"train": "trn", "dev": "val", "test": "tst"}
LABEL_FILES = ("Y.txt", "lbl.json", "output-items.txt")
MAX_DIGITS = 18
"""Of N and L in a header: what an int64 holds."""


def is_matrix_layout(folder: Path) -> bool:
    """Whether a folder holds the train split of one of the layouts."""
    return _parts(folder, "trn") is not None


def read_matrix(folder: Path) -> RawData:
    """RawData of a folder in one of the layouts.

    Raises:
        DataError: there is no train split, a file is damaged, or texts, matrix and label names do not fit together.
    """
    found = {split: parts for split, short in SPLITS.items() if (parts := _parts(folder, short))}
    if "train" not in found:
        raise DataError(f"{folder} holds no X.trn.txt with Y.trn.npz, trn_X.txt with trn_X_Y.txt, nor trn.json.gz.")
    label_file = next((file for name in LABEL_FILES if (file := find_file(folder, name))), None)
    labels = _label_items(label_file) if label_file else None
    splits = {
        split: _json_split(parts[0], labels) if len(parts) == 1 else _text_split(parts[0], parts[1], split, labels)
        for split, parts in found.items()
    }
    files = [file for parts in found.values() for file in parts] + ([label_file] if label_file else [])
    return RawData(splits, {i: name for i, name in labels or () if name}, tuple(files))


def find_file(folder: Path, name: str) -> Path | None:
    """The file `name` in a folder, as it is or compressed."""
    return next((file for suffix in ("", *OPENERS) if (file := folder / (name + suffix)).is_file()), None)


def _parts(folder: Path, short: str) -> tuple[Path, ...] | None:
    for names in ((f"X.{short}.txt", f"Y.{short}.npz"), (f"{short}_X.txt", f"{short}_X_Y.txt"), (f"{short}.json",)):
        found = [file for name in names if (file := find_file(folder, name))]
        if len(found) == len(names):
            return tuple(found)
    return None


def _label_items(path: Path) -> list[tuple[str, str | None]]:
    """(id, name) of each label, by column of the matrix."""
    if path.name.startswith("lbl.json"):
        items = read_jsonl(path, _json_settings(path, "title"))
        ids, names = items.column("id").to_pylist(), items.column("text").to_pylist()
        if None in ids:
            line = ids.index(None)
            reason = items.column("error")[line].as_py() or "there is no uid"
            raise DataError(f"{path}, line {line + 1}: {reason}; expected one label a line, for lines are counted.")
        return list(zip(ids, names, strict=True))
    with opened(path) as lines:
        texts = [line.decode("utf-8", errors="replace").strip() for line in lines]
    return [(str(column), text or None) for column, text in enumerate(texts)]


def _json_settings(path: Path, text: str) -> DownloadSettings:
    columns = ColumnSettings(id="uid", text=text, labels="target_ind")
    return DownloadSettings(source=str(path), columns=columns)


def _json_split(path: Path, labels: list[tuple[str, str | None]] | None) -> pa.Table:
    table = read_jsonl(path, _json_settings(path, "title+content"))
    if "target_rel" in table.column_names:
        table = table.drop_columns("target_rel")
    if labels is None:
        return table
    lists = table.column("labels").combine_chunks()
    try:
        columns = pc.list_flatten(lists).cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} has a target_ind that is no whole number ({error}): check the file.") from None
    _check_range(path, columns.to_numpy(), len(labels))
    ids = pa.array([label_id for label_id, _ in labels], pa.string()).take(columns)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    renamed = pa.ListArray.from_arrays(pa.array(offsets), ids, mask=lists.is_null())
    return table.set_column(table.column_names.index("labels"), RECORD_SCHEMA.field("labels"), renamed)


def _text_split(texts: Path, matrix: Path, split: str, labels: list[tuple[str, str | None]] | None) -> pa.Table:
    Y = read_npz(matrix) if matrix.suffix == ".npz" else _load_text_matrix(matrix)
    N, L = Y.shape
    if labels is not None and len(labels) != L:
        raise DataError(f"{matrix} has {L} label columns, the label file names {len(labels)}: they must be the same.")
    ids = pa.array([label_id for label_id, _ in labels], pa.string()) if labels is not None else None
    chunks = []
    with opened(texts) as lines:
        start = 0
        while chunk := list(itertools.islice(lines, CHUNK)):
            stop = start + len(chunk)
            if stop <= N:
                chunks.append(_text_chunk(chunk, start, texts.name, split, Y, ids))
            start = stop
    if start != N:
        raise DataError(f"{texts} has {start} lines, {matrix} has {N} rows: they must be the same.")
    return concatenate(chunks)


def _text_chunk(
    lines: list[bytes], start: int, source_file: str, split: str, Y: sparse.csr_matrix, ids: pa.Array | None
) -> pa.Table:
    stop = start + len(lines)
    decoded: list[str | None] = []
    errors: list[str | None] = []
    for line in lines:
        try:
            decoded.append(line.decode("utf-8").strip())
            errors.append(None)
        except UnicodeDecodeError:
            decoded.append(None)
            errors.append("the line is not UTF-8")
    offsets = Y.indptr[start : stop + 1]
    columns = pa.array(Y.indices[offsets[0] : offsets[-1]])
    # A file may claim any L: names of columns are made for those that occur.
    labels = columns.cast(pa.string()) if ids is None else ids.take(columns)
    numbers = range(start + 1, stop + 1)
    records = {
        "id": [f"{split}-{number}" for number in numbers],
        "text": decoded,
        "labels": pa.ListArray.from_arrays(pa.array(offsets - offsets[0], pa.int32()), labels),
        "source_file": pa.repeat(source_file, len(lines)),
        "source_line": list(numbers),
        "error": errors,
    }
    return pa.table(records, schema=RECORD_SCHEMA)


def _load_text_matrix(path: Path) -> sparse.csr_matrix:
    """The repository's text format: "N L", then per row "column:value column:value ..."."""
    columns, lengths = array("q"), array("q")
    with opened(path) as lines:
        header = next(iter(lines), b"").split()
        if len(header) != 2 or not all(part.isdigit() and len(part) <= MAX_DIGITS for part in header):
            raise DataError(
                f"{path}, line 1: expected the two numbers N and L of a label matrix; files with three numbers hold "
                "features and no texts: fetch the raw-text version of the data set."
            )
        for number, line in enumerate(lines, start=2):
            before = len(columns)
            try:
                columns.extend([int(entry.partition(b":")[0]) for entry in line.split()])
            except (ValueError, OverflowError):
                raise DataError(f"{path}, line {number}: expected column:value pairs; check the file.") from None
            lengths.append(len(columns) - before)
    N, L = int(header[0]), int(header[1])
    if len(lengths) != N:
        raise DataError(f"{path} has {len(lengths)} rows, its header says {N}: fetch it again.")
    indices = np.frombuffer(columns, dtype=np.int64) if columns else np.empty(0, np.int64)
    _check_range(path, indices, L)
    indptr = np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])
    try:
        Y = checked_csr(np.ones(indices.size, np.float32), indices, indptr, (N, L))
    except ValueError as error:
        raise DataError(f"{path} holds no label matrix ({error}): check its header.") from None
    Y.sum_duplicates()
    return Y


def _check_range(path: Path, columns: npt.NDArray[np.int64], L: int) -> None:
    if columns.size and not (columns.min() >= 0 and columns.max() < L):
        raise DataError(f"{path} points to a label column outside 0 to {L - 1}: check that the files belong together.")
