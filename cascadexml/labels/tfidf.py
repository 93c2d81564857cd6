"""TF-IDF of documents: scikit-learn learns the terms, and what it learnt is applied here without it.

So a model that reads words predicts where scikit-learn is not installed, and from JSON and arrays alone.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from cascadexml.checked_json import read_strings, whole
from cascadexml.data.sparse_files import read_npy
from cascadexml.errors import ConfigError, DataError

_WORD = re.compile(r"(?u)\b\w\w+\b")
"""A word, as scikit-learn's default: two letters, digits or underscores at least."""
SCREENED = 1 << 16
"""Texts from which on terms are screened before they are counted. Most pairs of words stand in one text alone, and
scikit-learn holds each of them until it has read all texts. For fewer texts that is little memory, and not worth to
read them twice; where it begins to be has not been measured."""
MOST_NGRAMS, MOST_OPENING = 100, 1_000_000
"""Words of a term, and of a text that count twice, that a file may name."""
_BUCKETS = 1 << 28
_MOST = 255
_TEXTS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Tfidf:
    """Texts → TF-IDF rows: lower-cased words and runs of words, sublinear term frequency, l2-normalised.

    Attributes:
        terms: the V terms, column by column.
        idf: (V,) float32, their inverse document frequencies.
        ngrams: the longest run of words that is a term.
        opening: as of `opened`.
    """

    terms: Sequence[str]
    idf: npt.NDArray[np.float32]
    ngrams: int
    opening: int = 0

    def __post_init__(self) -> None:
        if not all(isinstance(term, str) for term in self.terms) or len(self._columns) != len(self.terms):
            raise ValueError("a term is no string or stands twice")
        if self.idf.dtype != np.float32 or self.idf.shape != (len(self.terms),) or not np.isfinite(self.idf).all():
            raise ValueError(f"idf is {self.idf.dtype} of {self.idf.shape}, expected {len(self.terms)} finite float32")
        if ((self.idf < 0) | (self.idf > 1e30)).any():
            raise ValueError("an idf is below 0 or beyond 1e30")
        if self.ngrams < 1:
            raise ValueError(f"terms of {self.ngrams} words, expected at least 1")
        if self.opening < 0:
            raise ValueError(f"an opening of {self.opening} words, expected 0 or more")

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {term: column for column, term in enumerate(self.terms)}

    @property
    def V(self) -> int:  # noqa: N802
        """How many terms there are."""
        return len(self.terms)

    @classmethod
    def fit(
        cls, texts: Sequence[str], ngrams: int, min_df: int, max_features: int, opening: int = 0
    ) -> tuple[Self, sparse.csr_matrix]:
        """Learn the terms of texts, with scikit-learn.

        Args:
            texts: N documents.
            ngrams: the longest run of words that is a term.
            min_df: documents that a term must occur in.
            max_features: terms kept, the most frequent first.
            opening: as of `opened`.

        Returns:
            What takes further texts, and the (N, V) float32 matrix of these.

        Raises:
            DataError: no term occurs in enough texts.
            ConfigError: scikit-learn is not installed.
        """
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ModuleNotFoundError:
            raise ConfigError('TF-IDF needs scikit-learn: pip install "cascadexml[train]".') from None
        rules = {"sublinear_tf": True, "dtype": np.float32, "min_df": min_df, "max_features": max_features}
        vectorizer = TfidfVectorizer(ngram_range=(1, ngrams), **rules)
        if len(texts) >= SCREENED:
            doubled = (opened(text, opening) for text in texts)
            vectorizer = TfidfVectorizer(analyzer=_screened(doubled, vectorizer.build_analyzer(), min_df), **rules)
        try:
            X = vectorizer.fit_transform(opened(text, opening) for text in texts)
        except ValueError:
            raise DataError(
                f"no word occurs in at least {min_df} of the {len(texts)} texts: lower cluster.min_df, or give more "
                "texts."
            ) from None
        columns = vectorizer.vocabulary_
        terms = sorted(columns, key=columns.__getitem__)
        return cls(terms, vectorizer.idf_.astype(np.float32), ngrams, opening), sparse.csr_matrix(X)

    def same_as(self, other: Self) -> bool:
        """Whether both give every text the same row."""
        ours, theirs = (self.ngrams, self.opening), (other.ngrams, other.opening)
        return ours == theirs and np.array_equal(self.idf, other.idf) and list(self.terms) == list(other.terms)

    def transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """The (N, V) float32 rows of N texts; a text without a known term has an empty row."""
        columns: list[int] = []
        counts: list[int] = []
        ends = [0]
        for text in texts:
            found = Counter(self._columns[term] for term in self._terms_of(text) if term in self._columns)
            row = sorted(found)
            columns.extend(row)
            counts.extend(found[column] for column in row)
            ends.append(len(columns))
        indices, indptr = np.array(columns, dtype=np.int32), np.array(ends, dtype=np.int64)
        data = (np.log(np.array(counts, dtype=np.float64)) + 1) * self.idf[indices]
        rows = np.repeat(np.arange(len(texts)), np.diff(indptr))
        norms = np.sqrt(np.bincount(rows, weights=data**2, minlength=len(texts)))
        data /= norms[rows]
        return sparse.csr_matrix((data.astype(np.float32), indices, indptr), shape=(len(texts), self.V))

    def _terms_of(self, text: str) -> Iterator[str]:
        words = _WORD.findall(opened(text, self.opening).lower())
        for n in range(1, self.ngrams + 1):
            for start in range(len(words) - n + 1):
                yield " ".join(words[start : start + n])

    def save(self, folder: Path) -> None:
        """Write terms.json and idf.npy into `folder`, a part of some bundle."""
        text = json.dumps(list(self.terms), ensure_ascii=False, indent=0)
        (folder / "terms.json").write_text(text + "\n", encoding="utf-8")
        np.save(folder / "idf.npy", self.idf, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, ngrams: int, opening: int = 0) -> Self:
        """Read what `save` wrote of terms with these `ngrams` and this `opening`.

        Raises:
            OSError, ValueError: a file is missing, or they hold no terms with a frequency each.
        """
        terms = read_strings(folder / "terms.json")
        idf: npt.NDArray[np.float32] = read_npy(folder / "idf.npy")
        return cls(terms, idf, ngrams, opening)


def whole_words(meta: Mapping[str, object]) -> tuple[int, int]:
    """`ngrams` and `opening` as a manifest tells them; each costs time of every text, so that both are bounded.

    Raises:
        ValueError: it does not, or they are beyond what texts are cut into.
    """
    return whole(meta, "ngrams", 1, MOST_NGRAMS), whole(meta, "opening", 0, MOST_OPENING)


def _screened(
    texts: Iterable[str], terms_of: Callable[[str], Sequence[str]], min_df: int
) -> Callable[[str], Iterator[str]]:
    """Text → its terms, but for most of those that stand in fewer than `min_df` of the texts; all others are kept.

    Texts are counted by the hash of a term, of which several terms may have one: a term stands in no more of them than
    its hash does (Park, Chen and Yu, 1995, "An effective hash-based algorithm for mining association rules").
    """
    counts = np.zeros(_BUCKETS, dtype=np.uint8)

    def buckets_of(terms: Sequence[str]) -> npt.NDArray[np.int64]:
        return np.fromiter(map(hash, terms), dtype=np.int64, count=len(terms)) & (_BUCKETS - 1)

    waiting: list[npt.NDArray[np.int64]] = []

    def count() -> None:
        buckets, uses = np.unique(np.concatenate(waiting), return_counts=True)
        counts[buckets] = np.minimum(counts[buckets] + uses, _MOST)
        waiting.clear()

    for text in texts:
        waiting.append(buckets_of(list(set(terms_of(text)))))
        if len(waiting) == _TEXTS_AT_ONCE:
            count()
    if waiting:
        count()
    enough = counts >= min(min_df, _MOST)

    def kept(text: str) -> Iterator[str]:
        terms = terms_of(text)
        return compress(terms, enough[buckets_of(terms)].tolist())

    return kept


def opened(text: str, opening: int) -> str:
    """A text in which its first `opening` words, mostly its title, stand twice."""
    return f"{' '.join(text.split(None, opening)[:opening])} {text}" if opening else text
