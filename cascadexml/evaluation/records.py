"""A ranker evaluated on records from outside the pipeline, whose labels are known."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.config import EvaluateSettings
from cascadexml.data.labelled import LabelledRecords, label_matrix
from cascadexml.data.sparse_files import checked_csr
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.evaluation.calibration import Calibration
from cascadexml.metrics import Report, evaluate
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import Documents, Ranker

MOST_DOCUMENTS, MOST_PAIRS = 10**8, 2**28
"""Of train, and labels of these, that an artifact may tell of: each takes memory here."""


@dataclass(frozen=True)
class RecordsReport:
    """One ranker's figures on records.

    Attributes:
        report: the figures.
        evaluated: records ranked.
        left_out: records without text or labels.
        known: labels that the ranker ranks.
        unknown: labels of the records that it does not rank; they count against recall.
        threshold: the probability from which on a label is given.
    """

    report: Report
    evaluated: int
    left_out: int
    known: int
    unknown: int
    threshold: float

    def to_json(self) -> dict[str, Any]:
        """What `Report.to_json` gives, with "documents" and "labels"."""
        return self.report.to_json() | {
            "documents": {"evaluated": self.evaluated, "left_out": self.left_out},
            "labels": {"known": self.known, "unknown": self.unknown, "threshold": self.threshold},
        }


def evaluate_on_records(
    ranker: Ranker,
    calibration: Calibration,
    vocabulary: Vocabulary,
    Y_train: sparse.csr_matrix,
    records: LabelledRecords,
    settings: EvaluateSettings,
    progress: Progress = silent,
) -> RecordsReport:
    """All figures of `metrics.evaluate` of a ranker on records.

    Args:
        ranker: any.
        calibration: of its scores.
        vocabulary: whose rows it ranks.
        Y_train: (N_train, len(vocabulary)) labels of its train split, or some with as many uses (`matrix_with_uses`).
        records: texts and label ids.
        settings: cut-offs, propensities, bins, resamples.
        progress: as of `Ranker.rank`.

    Raises:
        PredictionError: out of memory.
    """
    Y, L = label_matrix(records.labels, vocabulary), vocabulary.L
    ranking = calibration.calibrated(ranker.rank(Documents(records.texts), settings.top_k, progress=progress))
    # Labels that only the records have are columns without a use.
    widened = sparse.csr_matrix((Y_train.data, Y_train.indices, Y_train.indptr), shape=(Y_train.shape[0], Y.shape[1]))
    return RecordsReport(
        evaluate(ranking, Y, widened, settings, threshold=calibration.threshold),
        evaluated=len(records),
        left_out=records.left_out,
        known=L,
        unknown=int(np.unique(Y.indices[Y.indices >= L]).size),
        threshold=calibration.threshold,
    )


def matrix_with_uses(uses: npt.NDArray[np.int64], N: int, V: int) -> sparse.csr_matrix:
    """Some (N, V) label matrix with these column sums: all that propensities and frequency bins read of train.

    Raises:
        ValueError: a count is no number of documents, or there are not V.
    """
    if uses.dtype.kind not in "iu" or uses.shape != (V,):
        raise ValueError(f"counts of {uses.dtype}, shape {uses.shape}, expected {V} whole numbers")
    if V and not (uses.min() >= 0 and uses.max() <= N):
        raise ValueError(f"counts from {uses.min()} to {uses.max()}, expected 0 to {N}, the documents of train")
    pairs = int(uses.sum(dtype=np.float64))
    if N > MOST_DOCUMENTS or pairs > MOST_PAIRS:
        raise ValueError(f"{pairs} labels of {N} documents, expected at most {MOST_PAIRS} of {MOST_DOCUMENTS}")
    indptr = np.concatenate([[0], np.cumsum(uses, dtype=np.int64)])
    rows = np.arange(indptr[-1]) - np.repeat(indptr[:-1], np.diff(indptr))
    return sparse.csr_matrix(checked_csr(np.ones(rows.size, np.float32), rows, indptr, (V, N)).T)
