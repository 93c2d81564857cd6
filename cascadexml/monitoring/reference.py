"""Reference: what held-out records of the training's years look like to a model. Later batches are compared with it.

It travels in the artifact, so that a monitor needs the artifact and the batch, and nothing else. The records are those
of dev and test, which the model never trained on, so that its scores, its vectors and its share of unknown words are
what equally new records of the same kind would have. No text and no id is in it: words of train are kept as hashes.

    records.parquet       one row a held-out record: statistics of the text, the scores and the labels; metadata columns
    vectors.npy           (n, d) float16, what the label classifiers read
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
import torch
from scipy import sparse

from cascadexml import bundle
from cascadexml.data.corpus import Corpus
from cascadexml.data.sparse_files import checked_csr
from cascadexml.data.tokens import TokenStore, length_bucketed, pad
from cascadexml.errors import DataError, FormatError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.metrics import Float64, document_metrics
from cascadexml.progress import Progress, silent
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.ranking import NO_LABEL, Ranking
from cascadexml.serving.predictor import TorchScorer

KIND, VERSION = "cascadexml.reference", 1
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
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Profile:
    """What N records look like to a model.

    Attributes:
        table: N rows; float64 columns of statistics (those of labels and quality only where there are labels), and
            string columns of metadata.
        vectors: (N, d) float16, what the label classifiers read.
        Y: (N, V) CSR of ones, columns [0, L) being the labels that the model ranks; None without labels.
    """

    table: pa.Table
    vectors: npt.NDArray[np.float16]
    Y: sparse.csr_matrix | None

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def take(self, rows: npt.NDArray[np.integer]) -> "Profile":
        """The profile of some of the records."""
        Y = None if self.Y is None else self.Y[rows]
        return Profile(self.table.take(pa.array(rows)), self.vectors[rows], Y)

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
        with bundle.writing(path, KIND, VERSION, self.meta) as folder:
            pq.write_table(self.profile.table, folder / "records.parquet", compression="zstd")
            np.save(folder / "vectors.npy", self.profile.vectors, allow_pickle=False)
            np.save(folder / "words.npy", self.words, allow_pickle=False)
            np.save(folder / "label_offsets.npy", self.Y_train.indptr.astype(np.int64), allow_pickle=False)
            np.save(folder / "label_rows.npy", self.Y_train.indices.astype(np.int32), allow_pickle=False)

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """Read what `save` wrote. The held-out records' own labels stay behind: their statistics are in the table.

        Raises:
            FormatError: the bundle is missing, truncated, changed or of a newer version, or its parts do not fit.
        """
        found = bundle.read_bundle(path, KIND, VERSION)
        try:
            table = pq.read_table(path / "records.parquet")
            vectors, words, offsets, rows = (
                np.load(path / f"{name}.npy", allow_pickle=False)
                for name in ("vectors", "words", "label_offsets", "label_rows")
            )
            shape = (int(found.meta["documents"]), int(found.meta["labels"]))
            Y_train = checked_csr(np.ones(rows.size, np.float32), rows, offsets, shape)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise FormatError(f"{path} cannot be read as a reference ({error}): make it again.") from None
        if vectors.ndim != 2 or len(vectors) != table.num_rows or not {*TEXT_STATISTICS} <= {*table.column_names}:
            raise FormatError(f"{path} has records and vectors that do not fit together: make it again.")
        return cls(Profile(table, vectors, None), words, Y_train, found.meta)


def make_reference(
    corpus: Corpus,
    model: CascadeXML,
    tokens: Mapping[str, TokenStore],
    calibration: Calibration,
    *,
    metadata: Sequence[str] = (),
    records: int | None = None,
    seed: int = 0,
    model_fingerprint: str | None = None,
    progress: Progress = silent,
) -> Reference:
    """Look at the held-out records of a corpus through a trained model.

    Args:
        corpus: train, and dev or test.
        model: on the device that is to do the work.
        tokens: of dev and test, by split.
        calibration: turns the model's scores into probabilities.
        metadata: columns to keep; those that the corpus lacks are passed over.
        records: at most so many held-out records, drawn at random; None for all.
        seed: of the draw.
        model_fingerprint: of the model's bundle, kept in `meta`.
        progress: called with ("profile", records done, n, {}).

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
        ranking, vectors = observe(model, tokens[name], progress, rows=rows)
        texts = [split.texts[row] for row in rows]
        columns = metadata_columns(split.metadata.take(pa.array(rows)), metadata)
        parts.append(make_profile(texts, calibration.calibrated(ranking), vectors, words, split.Y[rows], L, columns))
    # A metadata column that one split lacks is passed over.
    shared = [c for c in parts[0].table.column_names if all(c in part.table.column_names for part in parts)]
    table = pa.concat_tables([part.table.select(shared) for part in parts]).combine_chunks()
    profile = Profile(table, np.concatenate([part.vectors for part in parts]), None)
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
    vectors: npt.NDArray[np.floating],
    words: npt.NDArray[np.uint64],
    Y: sparse.csr_matrix | None,
    L: int,
    metadata: Mapping[str, pa.Array],
) -> Profile:
    """Bring together all that is known of N records.

    Args:
        texts: N texts.
        ranking: (N, K) with probabilities.
        vectors: (N, d).
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
    return Profile(pa.table(kept | dict(metadata)), vectors.astype(np.float16), Y)


def observe(
    model: CascadeXML,
    tokens: TokenStore | Sequence[Sequence[int]],
    progress: Progress = silent,
    *,
    rows: npt.NDArray[np.integer] | None = None,
    pad_id: int = 0,
) -> tuple[Ranking, npt.NDArray[np.float32]]:
    """Rank N tokenised records, and keep the vectors (N, d) that their labels were scored from, in one pass.

    Args:
        model: on the device that is to do the work.
        tokens: a store, or N lists of token ids; a record without any gets no label and a vector of zeros.
        progress: called after each batch with ("profile", records done, N, {}).
        rows: the N records of `tokens` that are meant, in that order; None for all.
        pad_id: fills short lists; a store brings its own.

    Raises:
        PredictionError: out of memory.
    """
    lengths = tokens.lengths if isinstance(tokens, TokenStore) else np.array([len(t) for t in tokens], dtype=np.int32)
    chosen = np.arange(len(lengths)) if rows is None else rows
    lengths = lengths[chosen]
    scorer, N = TorchScorer(model), len(chosen)
    head = model.heads[-1]
    found = min(K, scorer.L)
    labels = np.full((N, K), NO_LABEL, dtype=np.int32)
    scores = np.full((N, K), -np.inf, dtype=np.float32)
    vectors = np.zeros((N, head.d), dtype=np.float32)
    seen: list[torch.Tensor] = []
    # The leaf classifier's input is the vector: so the encoder runs once for both.
    hook = head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].detach()))
    was_training = model.training
    model.eval()
    try:
        filled, done = np.flatnonzero(lengths > 0), 0
        for batch in length_bucketed(lengths[filled], _BATCH):
            places = filled[batch]
            if isinstance(tokens, TokenStore):
                part = tokens.batch(chosen[places])
                input_ids, mask = part.input_ids, part.attention_mask
            else:
                input_ids, mask = pad([tokens[row] for row in chosen[places]], pad_id)
            ranking = scorer.rank(input_ids, mask, found)
            labels[places, :found], scores[places, :found] = ranking.labels, ranking.scores
            vectors[places] = seen.pop().float().cpu().numpy()
            done += len(places)
            progress("profile", done, len(filled), {})
    finally:
        hook.remove()
        model.train(was_training)
    return Ranking(labels, scores), vectors


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
