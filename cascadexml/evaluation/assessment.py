"""Assessing a packed model on records from outside the pipeline, whose labels are known."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from cascadexml.artifact.artifact import Artifact
from cascadexml.config import ColumnSettings, DownloadSettings, EvaluateSettings
from cascadexml.data.readers import read
from cascadexml.data.readers.records import text_columns
from cascadexml.data.sparse_files import checked_csr
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import DataError, FormatError
from cascadexml.metrics import evaluate
from cascadexml.progress import Progress, silent
from cascadexml.serving.predictor import Predictor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Section = TypeVar("Section", bound=DataclassInstance)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledRecords:
    """N texts with their label ids (an Arrow array of lists), and how many records lacked either."""

    texts: list[str]
    labels: pa.ListArray
    left_out: int


def read_labelled(path: Path, params: Mapping[str, Any]) -> LabelledRecords:
    """Records from a file in any source format; those without text or labels are counted, logged and left out.

    Args:
        path: the file.
        params: the settings of the model's run: columns are called what they were called in its data.

    Raises:
        DataError: the file cannot be read, or no record has both text and labels.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file: give one file of records with labels.")
    source = params.get("download", {})
    columns = _section(ColumnSettings, source.get("columns", {}))
    # No id is needed here, but readers want one: the text stands in for it.
    columns = dataclasses.replace(columns, id=text_columns(columns.text)[0])
    separator = source.get("label_separator", DownloadSettings().label_separator)
    raw = read(path, DownloadSettings(columns=columns, label_separator=separator))
    table = pa.concat_tables(table.select(["text", "labels", "error"]) for table in raw.splits.values())
    whole = pc.and_(pc.is_null(table["error"]), pc.greater(pc.list_value_length(table["labels"]), 0))
    kept = table.filter(pc.fill_null(pc.and_(whole, pc.is_valid(table["text"])), False))
    left_out = table.num_rows - kept.num_rows
    if not kept.num_rows:
        raise DataError(f"{path}: none of {table.num_rows} records has text and labels: check its keys or columns.")
    if left_out:
        log.warning("%s: %d of %d records have no text or no labels: left out.", path, left_out, table.num_rows)
    return LabelledRecords(kept["text"].to_pylist(), pa.concat_arrays(kept["labels"].chunks), left_out)


def assess(
    predictor: Predictor, artifact: Artifact, records: LabelledRecords, progress: Progress = silent
) -> dict[str, Any]:
    """All figures of `metrics.evaluate`, with the settings of the model's run, its threshold and its label counts.

    Labels that the model does not know count against recall.

    Returns:
        What `metrics.evaluate` gives, with "documents": {"evaluated", "left_out"} and
        "labels": {"known", "unknown", "threshold"}.

    Raises:
        PredictionError: out of memory.
    """
    settings = _section(EvaluateSettings, artifact.meta["params"].get("evaluate", {}))
    Y = label_matrix(records.labels, predictor.vocabulary)
    counts, documents = artifact.label_counts(), artifact.meta["documents"]["train"]
    try:
        Y_train = _matrix_with(counts, documents, Y.shape[1])
    except ValueError as error:
        raise FormatError(
            f"{artifact.path}/label_counts.npy does not fit its model ({error}): pack it again."
        ) from None
    ranking = predictor.rank(records.texts, settings.top_k, progress)
    found = evaluate(ranking, Y, Y_train, settings, threshold=predictor.threshold)
    L = predictor.vocabulary.L
    return found | {
        "documents": {"evaluated": len(records.texts), "left_out": records.left_out},
        "labels": {"known": L, "unknown": np.unique(Y.indices[Y.indices >= L]).size, "threshold": predictor.threshold},
    }


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


def _matrix_with(counts: npt.NDArray[np.int64], N: int, V: int) -> sparse.csr_matrix:
    """Some (N, V) label matrix with these column sums: all that propensities and frequency bins read of train.

    Raises:
        ValueError: a count is no number of documents, or there are more than V.
    """
    if counts.dtype.kind not in "iu" or counts.ndim != 1 or counts.size > V:
        raise ValueError(f"counts of {counts.dtype}, shape {counts.shape}, expected at most {V} whole numbers")
    if counts.size and not (counts.min() >= 0 and counts.max() <= N):
        raise ValueError(f"counts from {counts.min()} to {counts.max()}, expected 0 to {N}, the documents of train")
    indptr = np.zeros(V + 1, np.int64)
    indptr[1 : counts.size + 1] = np.cumsum(counts)
    indptr[counts.size + 1 :] = indptr[counts.size]
    rows = np.arange(indptr[-1]) - np.repeat(indptr[:-1], np.diff(indptr))
    return sparse.csr_matrix(checked_csr(np.ones(rows.size, np.float32), rows, indptr, (V, N)).T)


def _section(kind: type["Section"], values: Mapping[str, Any]) -> "Section":
    """A section of the settings from what an artifact keeps; keys of other versions of the library are passed over."""
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in values.items() if key in known})
