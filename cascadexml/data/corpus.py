"""Corpus: the documents of train, dev and test, their label matrices, and the vocabulary of the columns.

On disk a corpus is a bundle: `vocabulary.json` and, per split, one Parquet file with the columns `id`, `text`, `labels`
(the rows of the vocabulary, rising: a CSR matrix of ones as a list column) and the metadata.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse

from cascadexml.bundle import Format
from cascadexml.data.sparse_files import checked_csr
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import DataError, FormatError

FORMAT = Format("cascadexml.corpus", 1)
VOCABULARY = "vocabulary.json"
RECORD_COLUMNS = ("id", "text", "labels")
PROVENANCE_COLUMNS = ("source_file", "source_line", "error")


@dataclass(frozen=True, eq=False)
class Split:
    """N documents of one split.

    Attributes:
        ids: N document ids.
        texts: N texts.
        Y: (N, len(vocabulary)) float32 CSR of ones, indices sorted.
        metadata: N rows of whatever else the records hold; may have no columns.
    """

    ids: list[str]
    texts: list[str]
    Y: sparse.csr_matrix
    metadata: pa.Table

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Corpus:
    """Splits by name, and the vocabulary of their label columns.

    Y of train has no entries in columns >= vocabulary.L.

    Attributes:
        splits: by name.
        vocabulary: of the columns of Y.
        stored: the fingerprint of the bundle that it was loaded from; None for a corpus that was just built.
    """

    splits: dict[str, Split]
    vocabulary: Vocabulary
    stored: str | None = None

    @property
    def train_labels(self) -> sparse.csr_matrix:
        """(N, L) the labels of train, all of which are ranked: a view of its Y, without the columns beyond L."""
        Y = self.splits["train"].Y
        return sparse.csr_matrix((Y.data, Y.indices, Y.indptr), shape=(Y.shape[0], self.vocabulary.L))

    @cached_property
    def fingerprint(self) -> str:
        """That of the bundle on disk: equal for equal content, just built or loaded, in whole or in part.

        For a corpus that was just built all of it is serialised, once.
        """
        if self.stored is not None:
            return self.stored
        lines = []
        for name, split in self.splits.items():
            sink = _DigestSink()
            _write(split, sink)
            lines.append(f"{name}.parquet {sink.digest.hexdigest()}\n")
        lines.append(f"{VOCABULARY} {hashlib.sha256(self.vocabulary.to_json().encode()).hexdigest()}\n")
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()

    @classmethod
    def from_records(
        cls, tables: Mapping[str, pa.Table], label_names: Mapping[str, str], base: Vocabulary | None = None
    ) -> "Corpus":
        """Build a corpus from RawRecords tables (see `cascadexml.readers`), from which bad rows have been removed.

        Args:
            tables: records by split; "train" is required. A label that stands twice in a record counts once.
            label_names: label id → name; may lack some and hold others.
            base: an older vocabulary, whose ranked rows keep their place.

        Raises:
            DataError: there is no train split, it holds no label, or an id, text or label is null.
        """
        if "train" not in tables:
            raise DataError("There is no split named train: expected records to train on; add them to the source.")
        for name, table in tables.items():
            _refuse_nulls(name, table)
        used = {
            name: set(pc.unique(pc.list_flatten(table.column("labels"))).to_pylist()) for name, table in tables.items()
        }
        vocabulary = (base or Vocabulary((), (), 0)).extend(used["train"], label_names, set().union(*used.values()))
        if vocabulary.L == 0:
            raise DataError("No record of train has a label: expected at least one; check the labels column.")
        return cls({name: _split(table, vocabulary) for name, table in tables.items()}, vocabulary)

    def save(self, path: Path) -> None:
        """Write a bundle to `path`."""
        meta = {"N": {name: len(split) for name, split in self.splits.items()}, "L": self.vocabulary.L}
        with FORMAT.write(path, meta) as folder:
            self.vocabulary.save(folder / VOCABULARY)
            for name, split in self.splits.items():
                with (folder / f"{name}.parquet").open("wb") as file:
                    _write(split, file)

    @classmethod
    def load(cls, path: Path, splits: Sequence[str] | None = None) -> "Corpus":
        """Read what `save` wrote: all splits, or those named.

        Raises:
            FormatError: the bundle is truncated, changed or of another version; it lacks a split; or its parts do not
                fit together.
        """
        found = FORMAT.read(path)
        present = [name.removesuffix(".parquet") for name in found.files if name.endswith(".parquet")]
        missing = [name for name in splits or () if name not in present]
        if missing:
            raise FormatError(f"{path} holds no split {missing[0]!r}, it has {', '.join(present)}: check the name.")
        vocabulary = Vocabulary.load(path / VOCABULARY)
        wanted = present if splits is None else splits
        return cls(
            {name: _read(path / f"{name}.parquet", name, vocabulary) for name in wanted},
            vocabulary,
            found.fingerprint,
        )


class _DigestSink(io.RawIOBase):
    """A file that keeps only the SHA-256 of what is written to it."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size


def _refuse_nulls(name: str, table: pa.Table) -> None:
    for column in RECORD_COLUMNS:
        if column not in table.column_names:
            raise DataError(f"The records of {name} have no column {column!r}: expected id, text and labels.")
        if table.column(column).null_count:
            raise DataError(f"The records of {name} hold a null {column}: expected such rows to be refused before.")
    if pc.list_flatten(table.column("labels")).null_count:
        raise DataError(f"The records of {name} hold a null label: expected such rows to be refused before.")


def _split(table: pa.Table, vocabulary: Vocabulary) -> Split:
    labels = table.column("labels")
    N = table.num_rows
    columns = vocabulary.rows(pc.list_flatten(labels))
    lengths = np.asarray(pc.list_value_length(labels), dtype=np.int64)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    Y = sparse.csr_matrix((np.ones(columns.size, np.float32), columns, indptr), shape=(N, len(vocabulary)))
    Y.sum_duplicates()
    Y.data.fill(1.0)
    metadata = table.drop_columns([c for c in table.column_names if c in RECORD_COLUMNS + PROVENANCE_COLUMNS])
    return Split(table.column("id").to_pylist(), table.column("text").to_pylist(), Y, metadata)


def _write(split: Split, sink: Any) -> None:
    Y = split.Y
    labels = pa.LargeListArray.from_arrays(pa.array(Y.indptr, pa.int64()), pa.array(Y.indices, pa.int32()))
    table = pa.table({"id": pa.array(split.ids, pa.string()), "text": pa.array(split.texts, pa.large_string())})
    table = table.append_column("labels", labels)
    metadata = split.metadata.combine_chunks().replace_schema_metadata(None)
    for field, column in zip(metadata.schema, metadata.columns, strict=True):
        table = table.append_column(field, column)
    pq.write_table(table, sink, compression="zstd")


def _read(file: Path, name: str, vocabulary: Vocabulary) -> Split:
    try:
        table = pq.read_table(file)
        labels = table.column("labels")
        indices = pc.list_flatten(labels).cast(pa.int32()).to_numpy()
        indptr = np.concatenate([[0], np.cumsum(np.asarray(pc.list_value_length(labels), dtype=np.int64))])
        ids, texts = table.column("id").to_pylist(), table.column("text").to_pylist()
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise FormatError(f"{file} cannot be read as a split of a corpus ({error}): make the corpus again.") from None
    width = vocabulary.L if name == "train" else len(vocabulary)
    if indices.size and not (indices.min() >= 0 and indices.max() < width):
        raise FormatError(f"{file} has a label row outside the {width} of its vocabulary: make the corpus again.")
    try:
        Y = checked_csr(np.ones(indices.size, np.float32), indices, indptr, (len(ids), len(vocabulary)))
    except ValueError as error:
        raise FormatError(f"{file} holds no label matrix ({error}): make the corpus again.") from None
    if not Y.has_canonical_format:
        raise FormatError(f"{file} has label rows that do not rise within a document: make the corpus again.")
    return Split(ids, texts, Y, table.drop_columns(list(RECORD_COLUMNS)))
