"""Reference: what held-out records of the training's years look like to a model. Later batches are compared with it.

It travels in the artifact, so that a monitor needs the artifact and the batch, and nothing else. The records are those
of dev and test, which the model never trained on, so that its scores, its vectors and its share of unknown words are
what equally new records of the same kind would have. No text and no id is in it: words of train are kept as hashes.

    records.parquet       one row a held-out record: statistics of the text, the scores and the labels; metadata columns
    vectors.npy           (n, d) float16, what the labels were scored from; missing for a ranker without vectors
    words.npy             (W,) uint64, sorted hashes of the words of train
    label_offsets.npy, label_rows.npy    the (N, L) label matrix of train, as CSR
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from cascadexml.artifact.formats import REFERENCE
from cascadexml.bundle import Bundle
from cascadexml.checked_json import whole
from cascadexml.data.corpus import Corpus
from cascadexml.data.sparse_files import checked_csr, read_npy
from cascadexml.errors import DataError, FormatError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.held_out import HELD_OUT, Seen
from cascadexml.monitoring.profile import (
    LABEL_STATISTICS,
    QUALITY,
    SCORE_STATISTICS,
    Profile,
    make_profile,
    metadata_columns,
)
from cascadexml.monitoring.text_statistics import TEXT_STATISTICS, hash_words

STATISTICS = {*TEXT_STATISTICS, *SCORE_STATISTICS, *LABEL_STATISTICS, *QUALITY}
MOST_VALUES = 2**26
"""That a file of records may claim: a reference holds some thousands."""


@dataclass(frozen=True, eq=False)
class Reference:
    """The profile of held-out records, with what train knows.

    Attributes:
        profile: n held-out records of the training's years.
        words: (W,) uint64, sorted hashes of the words of train.
        Y_train: (N, L) CSR of ones.
        meta: "records" held out, by split; "documents" and "labels" of train; "model", the fingerprint of the
            ranker's bundle.
    """

    profile: Profile
    words: npt.NDArray[np.uint64]
    Y_train: sparse.csr_matrix
    meta: Mapping[str, Any]

    def save(self, path: Path) -> None:
        """Write a bundle to `path`."""
        with REFERENCE.write(path, self.meta) as folder:
            pq.write_table(self.profile.table, folder / "records.parquet", compression="zstd")
            if self.profile.vectors is not None:
                np.save(folder / "vectors.npy", self.profile.vectors, allow_pickle=False)
            np.save(folder / "words.npy", self.words, allow_pickle=False)
            np.save(folder / "label_offsets.npy", self.Y_train.indptr.astype(np.int64), allow_pickle=False)
            np.save(folder / "label_rows.npy", self.Y_train.indices.astype(np.int32), allow_pickle=False)

    @classmethod
    def load(cls, place: Path | Bundle) -> "Reference":
        """Read what `save` wrote. The held-out records' own labels stay behind: their statistics are in the table.

        Args:
            place: where it lies, or the bundle that has been verified.

        Raises:
            FormatError: the bundle is missing, truncated, changed or of another version, or its parts do not fit.
        """
        found = REFERENCE.read(place)
        path = found.path
        try:
            table = _records_of(path / "records.parquet")
            words, offsets, rows = (read_npy(path / f"{name}.npy") for name in ("words", "label_offsets", "label_rows"))
            # The manifest has told which files are there: one that is missing never was.
            kept = path / "vectors.npy"
            vectors = read_npy(kept) if kept.exists() else None
            shape = (whole(found.meta, "documents"), whole(found.meta, "labels"))
            Y_train = checked_csr(np.ones(rows.size, np.float32), rows, offsets, shape)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise FormatError(f"{path} cannot be read as a reference ({error}): make it again.") from None
        fit = vectors is None or (
            vectors.dtype == np.float16
            and vectors.ndim == 2
            and len(vectors) == table.num_rows
            and bool(np.isfinite(vectors).all())
        )
        if words.dtype != np.uint64 or words.ndim != 1 or not isinstance(found.meta.get("model"), (str, type(None))):
            raise FormatError(f"{path} does not hold the words and the model of a reference: make it again.")
        if not fit or not {*TEXT_STATISTICS} <= {*table.column_names}:
            raise FormatError(f"{path} has records and vectors that do not fit together: make it again.")
        return cls(Profile(table, vectors, None), words, Y_train, found.meta)


def _records_of(file: Path) -> pa.Table:
    """The table of a reference: statistics are finite numbers, all else is text; raises ValueError where it is not."""
    with pq.ParquetFile(file) as opened:
        # A file of a few bytes may say that a value stands there any number of times.
        if opened.metadata.num_rows * opened.metadata.num_columns > MOST_VALUES:
            raise ValueError(f"{file.name} claims {opened.metadata.num_rows} rows")
        table = opened.read()
    for name in table.column_names:
        column = table.column(name)
        if column.null_count:
            raise ValueError(f"{name} holds nulls")
        if name not in STATISTICS:
            right = pa.types.is_string(column.type)
        else:
            right = column.type == pa.float64() and bool(np.isfinite(column.to_numpy()).all())
        if not right:
            raise ValueError(
                f"{name} is of {column.type}, expected {'finite numbers' if name in STATISTICS else 'text'}"
            )
    return table


def make_reference(
    corpus: Corpus,
    seen: Mapping[str, Seen],
    calibration: Calibration,
    *,
    metadata: Sequence[str] = (),
    records: int | None = None,
    seed: int = 0,
    model_fingerprint: str | None = None,
) -> Reference:
    """Profile the held-out records of a corpus by what a ranker says of them.

    Args:
        corpus: train, and dev or test.
        seen: what the ranker says of all records of dev and test, by split.
        calibration: turns the ranker's scores into probabilities.
        metadata: columns to keep; those that the corpus lacks are passed over.
        records: at most so many held-out records, drawn at random; None for all.
        seed: of the draw.
        model_fingerprint: of the ranker's bundle, kept in `meta`.

    Raises:
        DataError: neither dev nor test has a record, or `seen` is of other records.
    """
    splits = {name: corpus.splits[name] for name in HELD_OUT if len(corpus.splits.get(name, ()))}
    if not splits:
        raise DataError("Neither dev nor test has a record: hold some out, by download.split.dev.")
    for name, split in splits.items():
        if name not in seen or len(seen[name].ranking.labels) != len(split):
            raise DataError(f"What the ranker said of {name} is not of its {len(split):,} records: evaluate again.")
    train, L = corpus.splits["train"], corpus.vocabulary.L
    words = hash_words(train.texts)
    sizes = [len(split) for split in splits.values()]
    drawn = np.random.default_rng(seed).permutation(sum(sizes))[: records or sum(sizes)]
    parts, start = [], 0
    for name, split in splits.items():
        rows = np.sort(drawn[(drawn >= start) & (drawn < start + len(split))]) - start
        start += len(split)
        columns = metadata_columns(split.metadata.take(pa.array(rows)), metadata)
        mine, texts = seen[name].take(rows), [split.texts[row] for row in rows]
        ranking = calibration.calibrated(mine.ranking)
        parts.append(make_profile(texts, ranking, mine.vectors, words, split.Y[rows], L, columns))
    # A metadata column that one split lacks is passed over.
    shared = [c for c in parts[0].table.column_names if all(c in part.table.column_names for part in parts)]
    table = pa.concat_tables([part.table.select(shared) for part in parts]).combine_chunks()
    vectors = [part.vectors for part in parts if part.vectors is not None]
    profile = Profile(table, np.concatenate(vectors) if vectors else None, None)
    meta = {
        "records": {name: len(part) for name, part in zip(splits, parts, strict=True)},
        "documents": len(train),
        "labels": L,
        "model": model_fingerprint,
    }
    return Reference(profile, words, corpus.train_labels, meta)
