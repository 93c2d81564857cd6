"""Labelled records from outside the pipeline, and the label matrix of their ids."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from cascadexml.config import DownloadSettings
from cascadexml.data.readers import read
from cascadexml.data.readers.records import text_columns
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledRecords:
    """N texts with their label ids (an Arrow array of lists), and how many records lacked either."""

    texts: list[str]
    labels: pa.ListArray
    left_out: int

    def __len__(self) -> int:
        return len(self.texts)


def read_labelled(path: Path, source: DownloadSettings) -> LabelledRecords:
    """Records from a file in any source format; those without text or labels are counted, logged and left out.

    Args:
        path: the file.
        source: what its columns are called and what parts its labels; no id is needed.

    Raises:
        DataError: the file cannot be read, or no record has both text and labels.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file: give one file of records with labels.")
    # Readers want an id: the text stands in for it.
    columns = dataclasses.replace(source.columns, id=text_columns(source.columns.text)[0])
    raw = read(path, DownloadSettings(source=str(path), columns=columns, label_separator=source.label_separator))
    table = pa.concat_tables(table.select(["text", "labels", "error"]) for table in raw.splits.values())
    whole = pc.and_(pc.is_null(table["error"]), pc.greater(pc.list_value_length(table["labels"]), 0))
    kept = table.filter(pc.fill_null(pc.and_(whole, pc.is_valid(table["text"])), False))
    left_out = table.num_rows - kept.num_rows
    if not kept.num_rows:
        raise DataError(f"{path}: none of {table.num_rows} records has text and labels: check its keys or columns.")
    if left_out:
        log.warning("%s: %d of %d records have no text or no labels: left out.", path, left_out, table.num_rows)
    return LabelledRecords(kept["text"].to_pylist(), pa.concat_arrays(kept["labels"].chunks), left_out)


def label_matrix(labels: pa.ListArray, vocabulary: Vocabulary) -> sparse.csr_matrix:
    """(N, V) CSR of ones from N lists of label ids; each label beyond the vocabulary gets a column of its own after it.

    A label that stands twice in a record counts once.
    """
    ids = labels.flatten()
    columns = vocabulary.rows(ids)
    new = columns == -1
    codes = ids.filter(pa.array(new)).dictionary_encode()
    columns[new] = len(vocabulary) + codes.indices.to_numpy()
    V = len(vocabulary) + len(codes.dictionary)
    documents = pc.list_parent_indices(labels).to_numpy()
    Y = sparse.csr_matrix((np.ones(columns.size, np.float32), (documents, columns)), shape=(len(labels), V))
    Y.data[:] = 1.0
    return Y
