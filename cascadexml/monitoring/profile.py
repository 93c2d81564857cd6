"""Profile: what records look like to a model, one row a record. References and batches are compared by theirs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from cascadexml.metrics import Float64, document_metrics
from cascadexml.monitoring.text_statistics import text_statistics
from cascadexml.ranking import NO_LABEL, Ranking

QUALITY = ("nDCG@5", "P@1")
SCORE_STATISTICS = ("top_probability", "top5_probability")
LABEL_STATISTICS = ("labels", "unseen_labels")
K = 10
"""Labels ranked a record: more than any statistic reads."""


@dataclass(frozen=True, eq=False)
class Profile:
    """What N records look like to a model.

    Attributes:
        table: N rows; float64 columns of statistics (those of labels and quality only where there are labels), and
            string columns of metadata.
        vectors: (N, d) float16, what the labels were scored from; None from a ranker without vectors.
        Y: (N, V) CSR of ones, columns [0, L) being the labels that the model ranks; None without labels.
    """

    table: pa.Table
    vectors: npt.NDArray[np.float16] | None
    Y: sparse.csr_matrix | None

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def take(self, rows: npt.NDArray[np.integer]) -> "Profile":
        """The profile of some of the records."""
        Y = None if self.Y is None else self.Y[rows]
        vectors = None if self.vectors is None else self.vectors[rows]
        return Profile(self.table.take(pa.array(rows)), vectors, Y)

    def numbers(self, name: str) -> Float64 | None:
        """(N,) one statistic; None where it was not taken."""
        return self.table.column(name).to_numpy() if name in self.table.column_names else None


def make_profile(
    texts: Sequence[str],
    ranking: Ranking,
    vectors: npt.NDArray[np.floating] | None,
    words: npt.NDArray[np.uint64],
    Y: sparse.csr_matrix | None,
    L: int,
    metadata: Mapping[str, pa.Array],
) -> Profile:
    """Bring together all that is known of N records.

    Args:
        texts: N texts.
        ranking: (N, K) with probabilities.
        vectors: (N, d), or None from a ranker without them.
        words: sorted hashes of the words of train.
        Y: (N, V) labels, or None where the records have none.
        L: columns [0, L) of Y are labels of train.
        metadata: column → N strings.
    """
    columns: dict[str, Any] = dict(text_statistics(texts, words))
    probabilities = np.where(ranking.labels == NO_LABEL, 0.0, ranking.scores).astype(np.float64)
    columns["top_probability"] = probabilities[:, 0]
    columns["top5_probability"] = probabilities[:, :5].sum(axis=1) / 5
    if Y is not None:
        columns["labels"] = np.diff(Y.indptr).astype(np.float64)
        columns["unseen_labels"] = np.diff(Y[:, L:].tocsr().indptr).astype(np.float64)
        columns |= document_metrics(ranking, Y, sorted({int(name.partition("@")[2]) for name in QUALITY}))
    kept = {name: values for name, values in columns.items() if "@" not in name or name in QUALITY}
    return Profile(pa.table(kept | dict(metadata)), None if vectors is None else vectors.astype(np.float16), Y)


def metadata_columns(table: pa.Table, names: Sequence[str]) -> dict[str, pa.Array]:
    """The columns of those names that the table has, as strings; null becomes "(none)"."""
    return {
        name: pa.array(["(none)" if value is None else str(value) for value in table.column(name).to_pylist()])
        for name in names
        if name in table.column_names
    }
