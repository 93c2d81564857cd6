"""One-against-rest linear classifiers over words: what a transformer that reads the first words of a text overlooks.

Each label has a support vector machine of its own, fitted by LIBLINEAR on its documents, on those that are most like
them, and on a sample of the rest, as PECOS and Parabel take a few negatives instead of all (Yu et al., 2022; Prabhu et
al., 2018). Small weights are cut off (Babbar and Schölkopf, DiSMEC, 2017), and the rest lies as an inverted index:
a text costs what its own terms list, whatever the number of labels.
"""

import os
import warnings
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse, special

from cascadexml.bundle import Bundle
from cascadexml.checked_json import whole
from cascadexml.config import LinearSettings
from cascadexml.data.sparse_files import checked_csr
from cascadexml.errors import ConfigError, FormatError
from cascadexml.labels.features import pifa
from cascadexml.labels.tfidf import Tfidf, whole_words
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import BATCH_SIZE, FORMATS, Documents
from cascadexml.rankers.search import InvertedIndex
from cascadexml.ranking import NO_LABEL, Ranking

FORMAT = FORMATS["linear"]
DESCRIPTION = 100
"""Terms that describe a label when documents like its own are looked for."""
TOLERANCE, ITERATIONS = 0.05, 50
"""Of LIBLINEAR's dual coordinate descent: a ranking gains nothing beyond."""
_LABELS_A_TASK = 64
_PAIRS_A_PROCESS = 1 << 20
"""With fewer pairs of documents and labels other processes take longer to start than the work takes."""
HEAVIEST = 1e30
"""Weight that a file may name: beyond this a sum of products may be no float32."""
_CELLS_A_CHUNK = 1 << 24


@dataclass(frozen=True, eq=False)
class LinearRanker:
    """Labels by linear classifiers over TF-IDF of words and word pairs.

    A label's score is sigmoid(w·x + b), in (0, 1). Labels that no term of the text speaks for or
    against are not ranked.

    Attributes:
        tfidf: texts → TF-IDF.
        W: (V, L) float32, the labels that each term speaks for and against.
        b: (L,) float32.
    """

    tfidf: Tfidf
    W: sparse.csr_matrix
    b: npt.NDArray[np.float32]

    kind: ClassVar = "linear"

    @property
    def L(self) -> int:  # noqa: N802
        """How many labels it ranks."""
        return int(self.W.shape[1])

    @classmethod
    def fit(
        cls,
        documents: Documents,
        Y: sparse.csr_matrix,
        settings: LinearSettings,
        seed: int,
        progress: Progress = silent,
    ) -> Self:
        """Fit a classifier for each label, on all cores.

        Args:
            documents: N documents.
            Y: (N, L) their labels.
            settings: terms, negatives and regularisation.
            seed: of the sample of negatives and of LIBLINEAR's order.
            progress: called with labels done.

        Raises:
            DataError: no term occurs in enough texts.
            ConfigError: scikit-learn is not installed.
        """
        try:
            from joblib import Parallel, delayed
        except ModuleNotFoundError:
            raise ConfigError('Linear classifiers need scikit-learn: pip install "cascadexml[train]".') from None
        tfidf, X = Tfidf.fit(documents.texts, settings.ngrams, settings.min_df, settings.max_features, settings.opening)
        N, L = Y.shape
        sample = np.random.default_rng(seed).permutation(N)[: settings.random_negatives]
        # LIBLINEAR reads float64 only: converted once, not once a label.
        train = _Training(X.astype(np.float64), InvertedIndex(sparse.csr_matrix(X.T)), sample, settings, seed)
        # LIBLINEAR's random numbers are global: threads would take each other's.
        jobs = 1 if N * L < _PAIRS_A_PROCESS else os.cpu_count()
        tasks = (delayed(_fit_labels)(train, *task) for task in _tasks(X, Y))
        terms, weights = array("i"), array("f")
        sizes, b, done = np.zeros(L, dtype=np.int64), np.zeros(L, dtype=np.float32), 0
        for some in Parallel(n_jobs=jobs, return_as="generator")(tasks):
            mine = slice(done, done + some.sizes.size)
            sizes[mine], b[mine] = some.sizes, some.biases
            terms.frombytes(some.terms.tobytes())
            weights.frombytes(some.weights.tobytes())
            done = mine.stop
            progress("linear classifiers", done, L, {})
        values, columns = np.frombuffer(weights, dtype=np.float32), np.frombuffer(terms, dtype=np.int32)
        by_label = sparse.csr_matrix((values, columns, np.append(0, sizes.cumsum())), shape=(L, tfidf.V))
        return cls(tfidf, sparse.csr_matrix(by_label.T), b)

    @cached_property
    def _index(self) -> InvertedIndex:
        return InvertedIndex(self.W, self.b)

    def rank(self, documents: Documents, K: int, *, progress: Progress = silent) -> Ranking:
        """The K labels of greatest margin for each of N documents, NO_LABEL where its terms know fewer labels."""
        return self.rank_rows(self.tfidf.transform(documents.texts), K, progress=progress)

    def rank_rows(self, X: sparse.csr_matrix, K: int, *, progress: Progress = silent) -> Ranking:
        """What `rank` gives, from the documents' (N, V) rows of `tfidf`."""
        N = X.shape[0]
        labels = np.full((N, K), NO_LABEL, dtype=np.int32)
        scores = np.full((N, K), -np.inf, dtype=np.float32)
        rows = max(1, _CELLS_A_CHUNK // max(self.L, 1))
        for start in range(0, N, rows):
            best = self._index.rank(X[start : start + rows], K)
            labels[start : start + rows] = best.labels
            given = best.labels != NO_LABEL
            scores[start : start + rows][given] = special.expit(best.scores[given])
            progress("linear classifiers", min(start + rows, N), N, {})
        return Ranking(labels, scores)

    def save(self, folder: Path) -> None:
        """Write a bundle to `folder`: the terms as JSON, the weights as safetensors."""
        arrays = {part: getattr(self.W, part) for part in ("data", "indices", "indptr")}
        with FORMAT.write(folder, {"L": self.L, "ngrams": self.tfidf.ngrams, "opening": self.tfidf.opening}) as new:
            self.tfidf.save(new)
            save_file(arrays | {"b": self.b}, new / "weights.safetensors")

    @classmethod
    def load(cls, place: Path | Bundle, device: str = "auto", batch_size: int = BATCH_SIZE) -> Self:
        """Read what `save` wrote; `device` and `batch_size` change nothing.

        Raises:
            FormatError: it is truncated, tampered with, of another kind or version, or its parts do not fit.
        """
        found = FORMAT.read(place)
        try:
            L = whole(found.meta, "L")
            tfidf = Tfidf.load(found.path, *whole_words(found.meta))
            arrays = load_file(found.path / "weights.safetensors")
            W = checked_csr(arrays["data"], arrays["indices"], arrays["indptr"], (tfidf.V, L))
            b = arrays["b"]
            if (np.abs(W.data) > HEAVIEST).any() or (np.abs(b) > HEAVIEST).any():
                raise ValueError(f"a weight is beyond {HEAVIEST:g}")
            if W.dtype != np.float32 or b.dtype != np.float32 or b.shape != (L,) or not np.isfinite(b).all():
                raise ValueError(f"weights are {W.dtype}, b is {b.dtype} of {b.shape}, expected float32 of ({L},)")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise FormatError(f"{found.path} cannot be read as linear classifiers ({error}): make it again.") from None
        return cls(tfidf, W, b)


class _Classifiers(NamedTuple):
    """Of n labels their (n,) numbers of terms and biases, and all their terms and these terms' weights in a row."""

    sizes: npt.NDArray[np.int64]
    biases: npt.NDArray[np.float64]
    terms: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


class _Training(NamedTuple):
    """What all labels are fitted with.

    Attributes:
        X: (N, V) float64, the documents.
        documents: the same, to be searched.
        sample: negatives of every label, as rows of X.
        settings: negatives and regularisation.
        seed: of LIBLINEAR's order.
    """

    X: sparse.csr_matrix
    documents: InvertedIndex
    sample: npt.NDArray[np.int64]
    settings: LinearSettings
    seed: int


def _tasks(
    X: sparse.csr_matrix, Y: sparse.csr_matrix
) -> Iterator[tuple[list[npt.NDArray[np.int32]], sparse.csr_matrix]]:
    """For some labels at a time, in their order, each one's documents and what describes it, (n, V)."""
    Z, columns = pifa(X, Y, DESCRIPTION), sparse.csc_matrix(Y)
    for start in range(0, Y.shape[1], _LABELS_A_TASK):
        some = Z[start : start + _LABELS_A_TASK]
        labels = range(start, start + some.shape[0])
        yield [columns.indices[columns.indptr[label] : columns.indptr[label + 1]] for label in labels], some


def _fit_labels(train: _Training, positives: list[npt.NDArray[np.int32]], Z: sparse.csr_matrix) -> _Classifiers:
    """Fit each label against its nearest documents and the sample."""
    count = train.settings.near_negatives
    nearest = train.documents.rank(Z, count).labels if count else np.zeros((len(positives), 0), dtype=np.int32)
    found = [_fit_label(train, mine, near) for mine, near in zip(positives, nearest, strict=True)]
    return _Classifiers(
        np.array([terms.size for terms, _, _ in found]),
        np.array([bias for _, _, bias in found]),
        np.concatenate([terms for terms, _, _ in found]),
        np.concatenate([weights for _, weights, _ in found]),
    )


def _fit_label(
    train: _Training, positives: npt.NDArray[np.int32], alike: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], float]:
    """One label's terms, their weights, and its bias."""
    from sklearn import config_context
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    X, settings = train.X, train.settings
    chosen = np.zeros(X.shape[0], dtype=bool)
    chosen[alike[alike != NO_LABEL]] = chosen[train.sample] = True
    chosen[positives] = False
    negatives = np.flatnonzero(chosen)
    if not positives.size or not negatives.size:
        return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32), 0.0
    columns, rows = _narrowed(X[np.concatenate([positives, negatives])])
    targets = np.repeat([1, 0], [positives.size, negatives.size])
    solver = LinearSVC(C=settings.cost, tol=TOLERANCE, max_iter=ITERATIONS, dual=True, random_state=train.seed)
    with config_context(assume_finite=True, skip_parameter_validation=True), warnings.catch_warnings():
        # That it stops before it has converged is meant.
        warnings.simplefilter("ignore", ConvergenceWarning)
        solver.fit(rows, targets)
    weights = solver.coef_[0]
    kept = np.flatnonzero(np.abs(weights) >= settings.least_weight)
    return columns[kept], weights[kept].astype(np.float32), float(solver.intercept_[0])


def _narrowed(rows: sparse.csr_matrix) -> tuple[npt.NDArray[np.int32], sparse.csr_matrix]:
    """The columns that have entries, and the matrix of these alone: LIBLINEAR spends time and memory on all others."""
    place = np.zeros(rows.shape[1], dtype=np.int32)
    place[rows.indices] = 1
    columns = np.flatnonzero(place).astype(np.int32)
    place[columns] = np.arange(columns.size, dtype=np.int32)
    return columns, sparse.csr_matrix(
        (rows.data, place[rows.indices], rows.indptr), shape=(rows.shape[0], columns.size)
    )
