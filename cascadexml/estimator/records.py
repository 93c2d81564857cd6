"""Texts and labels as a caller has them in memory → RawRecords, each wrong one refused by its row."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from cascadexml.config import ValidateSettings
from cascadexml.data.readers.records import RECORD_SCHEMA
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import DataError
from cascadexml.quality.rules import screen

Labels = Sequence[Sequence[str]] | npt.NDArray[Any] | sparse.spmatrix | sparse.sparray
"""N lists of label names, or an (N, L) indicator of zeros and ones."""


def checked_texts(texts: Sequence[str], split: str) -> list[str]:
    """N texts as a list.

    Raises:
        DataError: there are none, they are one str, or one of them is no str.
    """
    if isinstance(texts, str):
        raise DataError(f"the texts of {split} are one str, expected a list of them.")
    found = list(texts)
    if not found:
        raise DataError(f"{split} has no texts: give at least one.")
    for row, text in enumerate(found):
        if not isinstance(text, str):
            raise DataError(f"row {row} of {split} has a text that is {type(text).__name__}, expected str.")
    return found


def names_of(labels: Labels, split: str, classes: Sequence[str] | None) -> tuple[list[list[str]], Vocabulary | None]:
    """Labels as lists of names; for an indicator also the vocabulary of its columns, in their order.

    Args:
        labels: N lists of names, or an (N, L) indicator.
        split: its name, for messages.
        classes: the L names of an indicator's columns; None calls them "0", "1", …

    Raises:
        DataError: a row is no list of str, an indicator holds another value than 0 and 1 or has not one name a column.
    """
    dense = isinstance(labels, np.ndarray) and labels.dtype.kind in "biuf"
    if not dense and not sparse.issparse(labels):
        return [_names(row, each, split) for row, each in enumerate(cast(Any, labels))], None
    Y = sparse.csr_matrix(cast(Any, labels))
    if not np.isin(Y.data, (0, 1)).all():
        row = int(np.repeat(np.arange(Y.shape[0]), np.diff(Y.indptr))[~np.isin(Y.data, (0, 1))][0])
        raise DataError(f"row {row} of the indicator of {split} holds another value than 0 and 1.")
    Y.eliminate_zeros()
    L = Y.shape[1]
    ids = [str(column) for column in range(L)] if classes is None else [str(name) for name in classes]
    if len(ids) != L or len(set(ids)) != L:
        raise DataError(f"the indicator of {split} has {L} columns, expected the {len(set(ids))} names given for them.")
    lists = [[ids[column] for column in Y.indices[a:b]] for a, b in zip(Y.indptr, Y.indptr[1:], strict=False)]
    return lists, Vocabulary(tuple(ids), (None,) * L, L)


def raw_records(texts: list[str], labels: list[list[str]], split: str, settings: ValidateSettings) -> pa.Table:
    """RawRecords that have passed the pipeline's rules for rows; ids are row numbers.

    Raises:
        DataError: there are more texts than label rows or fewer, or a rule refuses a row.
    """
    if len(texts) != len(labels):
        raise DataError(f"{split} has {len(texts)} texts and {len(labels)} rows of labels, expected as many.")
    columns = {
        "id": [str(row) for row in range(len(texts))],
        "text": texts,
        "labels": labels,
        "source_file": [None] * len(texts),
        "source_line": range(len(texts)),
        "error": [None] * len(texts),
    }
    try:
        table = pa.table(columns, schema=RECORD_SCHEMA)
    except UnicodeEncodeError:
        raise DataError(f"a text or label of {split} holds half a surrogate pair, which no file can hold.") from None
    screened = screen(table, settings, split)
    if screened.rejected.num_rows:
        row, reason = screened.rejected["source_line"][0].as_py(), screened.reasons[0].as_py()
        raise DataError(
            f"row {row} of {split} cannot be trained on ({reason}; {screened.rejected.num_rows} such rows in all): "
            "leave it out, or move the bounds validate.* in settings."
        )
    return screened.kept


def _names(row: int, names: object, split: str) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Sequence | np.ndarray | set | frozenset):
        raise DataError(f"row {row} of the labels of {split} is {names!r:.60}, expected a list of str.")
    found = sorted(names) if isinstance(names, set | frozenset) else list(names)
    for name in found:
        if not isinstance(name, str):
            raise DataError(f"row {row} of the labels of {split} holds {name!r:.60}, expected str.")
    return found
