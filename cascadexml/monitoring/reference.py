"""Reference: what held-out records of the training's years look like to a model. Later batches are compared with it.

It travels in the artifact, so that a monitor needs the artifact and the batch, and nothing else. The records are those
of dev and test, which the model never trained on, so that its scores, its vectors and its share of unknown words are
what equally new records of the same kind would have. No text and no id is in it: words of train are kept as hashes.

    records.parquet       one row a held-out record: statistics of the text, the scores and the labels; metadata columns
    vectors.npy           (n, d) float16, what the labels were scored from; missing for a ranker without vectors
    words.npy             (W,) uint64, sorted hashes of the words of train
    label_offsets.npy, label_rows.npy    the (N, L) label matrix of train, as CSR
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from cascadexml.artifact.artifact import REFERENCE_FORMAT
from cascadexml.data.corpus import Corpus
from cascadexml.data.sparse_files import checked_csr
from cascadexml.data.tokens import Tokens
from cascadexml.errors import DataError, FormatError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.metrics import Float64, document_metrics
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import Documents, Ranker, VectorRanker
from cascadexml.ranking import NO_LABEL, Ranking

HELD_OUT = ("dev", "test")
QUALITY = ("nDCG@5", "P@1")
K = 10
"""Labels ranked a record: more than any statistic reads."""

TEXT_STATISTICS: dict[str, Literal["text", "vocabulary"]] = {
    "characters": "text",
    "words": "text",
    "word_length": "text",
    "non_ascii_share": "text",
    "digit_share": "text",
    "capital_share": "text",
    "function_word_share": "text",
    "unknown_word_share": "vocabulary",
}
"""Statistic of one text → the kind of drift it tells of."""
SCORE_STATISTICS = ("top_probability", "top5_probability")
LABEL_STATISTICS = ("labels", "unseen_labels")

# The commonest words of English that carry no topic: their share falls when the language changes or prose turns
# into lists.
_FUNCTION_WORDS = (
    "a about after all also an and are as at be been between both but by can for from has have how in into is it its "
    "more most not of on one or other our over such than that the their them these they this through to under used "
    "was we were what when where which while who will with you your"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
_WORD = re.compile(r"[^\W\d_]+")


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


@dataclass(frozen=True, eq=False)
class Reference:
    """The profile of held-out records, with what train knows.

    Attributes:
        profile: n held-out records of the training's years.
        words: (W,) uint64, sorted hashes of the words of train.
        Y_train: (N, L) CSR of ones.
        meta: "records" held out, by split; "documents" and "labels" of train; "model", the fingerprint of the network.
    """

    profile: Profile
    words: npt.NDArray[np.uint64]
    Y_train: sparse.csr_matrix
    meta: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write a bundle to `path`."""
        with REFERENCE_FORMAT.write(path, self.meta) as folder:
            pq.write_table(self.profile.table, folder / "records.parquet", compression="zstd")
            if self.profile.vectors is not None:
                np.save(folder / "vectors.npy", self.profile.vectors, allow_pickle=False)
            np.save(folder / "words.npy", self.words, allow_pickle=False)
            np.save(folder / "label_offsets.npy", self.Y_train.indptr.astype(np.int64), allow_pickle=False)
            np.save(folder / "label_rows.npy", self.Y_train.indices.astype(np.int32), allow_pickle=False)

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read what `save` wrote. The held-out records' own labels stay behind: their statistics are in the table.

        Raises:
            FormatError: the bundle is missing, truncated, changed or of another version, or its parts do not fit.
        """
        found = REFERENCE_FORMAT.read(path)
        try:
            table = pq.read_table(path / "records.parquet")
            words, offsets, rows = (
                np.load(path / f"{name}.npy", allow_pickle=False) for name in ("words", "label_offsets", "label_rows")
            )
            # The manifest has told which files are there: one that is missing never was.
            kept = path / "vectors.npy"
            vectors = np.load(kept, allow_pickle=False) if kept.exists() else None
            shape = (int(found.meta["documents"]), int(found.meta["labels"]))
            Y_train = checked_csr(np.ones(rows.size, np.float32), rows, offsets, shape)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise FormatError(f"{path} cannot be read as a reference ({error}): make it again.") from None
        fit = vectors is None or (vectors.ndim == 2 and len(vectors) == table.num_rows)
        if not fit or not {*TEXT_STATISTICS} <= {*table.column_names}:
            raise FormatError(f"{path} has records and vectors that do not fit together: make it again.")
        return cls(Profile(table, vectors, None), words, Y_train, found.meta)


def make_reference(
    corpus: Corpus,
    ranker: Ranker,
    calibration: Calibration,
    *,
    tokens: Mapping[str, Tokens] | None = None,
    metadata: Sequence[str] = (),
    records: int | None = None,
    seed: int = 0,
    model_fingerprint: str | None = None,
    progress: Progress = silent,
) -> Reference:
    """Look at the held-out records of a corpus through a ranker.

    Args:
        corpus: train, and dev or test.
        ranker: gives scores and, where it can, vectors.
        calibration: turns the ranker's scores into probabilities.
        tokens: of dev and test, by split; None leaves tokenising to the ranker.
        metadata: columns to keep; those that the corpus lacks are passed over.
        records: at most so many held-out records, drawn at random; None for all.
        seed: of the draw.
        model_fingerprint: of the model's bundle, kept in `meta`.
        progress: called with (what, records done, n, {}).

    Raises:
        DataError: neither dev nor test has a record.
        PredictionError: out of memory.
    """
    splits = {name: corpus.splits[name] for name in HELD_OUT if len(corpus.splits.get(name, ()))}
    if not splits:
        raise DataError("Neither dev nor test has a record: hold some out, by download.split.dev.")
    train, L = corpus.splits["train"], corpus.vocabulary.L
    words = hash_words(train.texts)
    sizes = [len(split) for split in splits.values()]
    drawn = np.random.default_rng(seed).permutation(sum(sizes))[: records or sum(sizes)]
    parts, start = [], 0
    for name, split in splits.items():
        rows = np.sort(drawn[(drawn >= start) & (drawn < start + len(split))]) - start
        start += len(split)
        documents = Documents(split.texts, None if tokens is None else tokens[name]).take(rows)
        ranking, vectors = observe(ranker, documents, progress)
        columns = metadata_columns(split.metadata.take(pa.array(rows)), metadata)
        ranking = calibration.calibrated(ranking)
        parts.append(make_profile(documents.texts, ranking, vectors, words, split.Y[rows], L, columns))
    # A metadata column that one split lacks is passed over.
    shared = [c for c in parts[0].table.column_names if all(c in part.table.column_names for part in parts)]
    table = pa.concat_tables([part.table.select(shared) for part in parts]).combine_chunks()
    seen = [part.vectors for part in parts if part.vectors is not None]
    profile = Profile(table, np.concatenate(seen) if seen else None, None)
    meta = {
        "records": {name: len(part) for name, part in zip(splits, parts, strict=True)},
        "documents": len(train),
        "labels": L,
        "model": model_fingerprint,
    }
    return Reference(profile, words, train.Y[:, :L].tocsr(), meta)


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


def observe(
    ranker: Ranker, documents: Documents, progress: Progress = silent
) -> tuple[Ranking, npt.NDArray[np.float32] | None]:
    """Rank N documents with the ranker's own scores, and keep the vectors (N, d) that it scored them from, if it can.

    Raises:
        PredictionError: out of memory.
    """
    if isinstance(ranker, VectorRanker):
        return ranker.rank_with_vectors(documents, K, progress=progress)
    return ranker.rank(documents, K, progress=progress), None


def text_statistics(texts: Sequence[str], words: npt.NDArray[np.uint64]) -> dict[str, Float64]:
    """The statistics of N texts, (N,) each, by name as in TEXT_STATISTICS.

    A word is a run of letters. Shares are of characters (non_ascii, digit, capital) or of words (function words of
    English, unknown words); `word_length` is the mean over words. A text without words has 0 for what words tell.

    Args:
        texts: N texts.
        words: sorted hashes of the known words, from `hash_words`.
    """
    found = {name: np.zeros(len(texts)) for name in TEXT_STATISTICS}
    known: dict[str, bool] = {}
    for n, text in enumerate(texts):
        size = max(len(text), 1)
        found["characters"][n] = len(text)
        found["non_ascii_share"][n] = 0.0 if text.isascii() else sum(not c.isascii() for c in text) / size
        found["digit_share"][n] = sum(c.isdigit() for c in text) / size
        found["capital_share"][n] = sum(c.isupper() for c in text) / size
        parts = _WORD.findall(text.lower())
        if not parts:
            continue
        new = list({part for part in parts if part not in known})
        known.update(zip(new, _are_in(_hashes(new), words), strict=True))
        found["words"][n] = len(parts)
        found["word_length"][n] = sum(map(len, parts)) / len(parts)
        found["function_word_share"][n] = sum(part in FUNCTION_WORDS for part in parts) / len(parts)
        found["unknown_word_share"][n] = sum(not known[part] for part in parts) / len(parts)
    return found


def hash_words(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    """(W,) sorted hashes of all distinct words of some texts, in lower case."""
    distinct: set[str] = set()
    for text in texts:
        distinct.update(_WORD.findall(text.lower()))
    return np.unique(_hashes(list(distinct)))


def metadata_columns(table: pa.Table, names: Sequence[str]) -> dict[str, pa.Array]:
    """The columns of those names that the table has, as strings; null becomes "(none)"."""
    return {
        name: pa.array(["(none)" if value is None else str(value) for value in table.column(name).to_pylist()])
        for name in names
        if name in table.column_names
    }


def _hashes(words: Sequence[str]) -> npt.NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(word.encode(), digest_size=8).digest() for word in words)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _are_in(hashes: npt.NDArray[np.uint64], words: npt.NDArray[np.uint64]) -> list[bool]:
    if not words.size:
        return [False] * len(hashes)
    places = np.minimum(np.searchsorted(words, hashes), words.size - 1)
    found: list[bool] = (words[places] == hashes).tolist()
    return found
