"""Label names as a ranker: the labels whose names a text spells, whole or in part, whatever train says of them.

A classifier knows of a label what its training documents show, which for most labels is little; its name is known from
the first day. Names and texts meet in runs of letters within words, so that inflections, compounds and another
language's cognates count in part: "Fluoreszenzmikroskopie" has much of "fluorescence microscopy". It is what lexical
matchers such as Maui or MLLM do for subject indexing, without their trees of rules.
"""

import json
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from cascadexml.bundle import Bundle
from cascadexml.checked_json import read_strings, whole
from cascadexml.data.sparse_files import checked_csr
from cascadexml.errors import FormatError
from cascadexml.labels.tfidf import MOST_OPENING
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import BATCH_SIZE, FORMATS, Documents
from cascadexml.rankers.search import InvertedIndex
from cascadexml.ranking import NO_LABEL, Ranking

FORMAT = FORMATS["names"]
SHORTEST, LONGEST = 4, 6
"""Letters of a run, the blanks before and after a word included."""
_WORD = re.compile(r"\w+")
_CELLS_A_CHUNK = 1 << 24
_WORDS_KEPT = 1 << 16


@dataclass(frozen=True, eq=False)
class NamesRanker:
    """Labels by the share of their names' runs of letters that a text has.

    A run counts by its inverse frequency among the names. A label's score is the mean of that share in the text and in
    its first `opening` words, in (0, 1]; labels that share no run with the text are not ranked, nor are those without
    a name.

    Attributes:
        runs: the V runs, column by column.
        W: (V, L) float32, each run's weight in each name; a name's sum to 1.
        opening: words at a text's start, mostly its title, that count by themselves as well; 0: none.
    """

    runs: Sequence[str]
    W: sparse.csr_matrix
    opening: int

    kind: ClassVar = "names"

    def __post_init__(self) -> None:
        if not all(isinstance(run, str) for run in self.runs) or len(self._columns) != len(self.runs):
            raise ValueError("a run is no string or stands twice")
        if self.W.dtype != np.float32 or self.W.shape[0] != len(self.runs) or (self.W.data < 0).any():
            raise ValueError(f"weights are {self.W.dtype} of {self.W.shape}, expected {len(self.runs)} rows of float32")
        if self.opening < 0:
            raise ValueError(f"an opening of {self.opening} words, expected 0 or more")

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {run: column for column, run in enumerate(self.runs)}

    @cached_property
    def _columns_of_word(self) -> Callable[[str], list[int]]:
        """The columns of a word's runs that are known, remembered: texts are made of the same words."""

        @lru_cache(maxsize=_WORDS_KEPT)
        def columns_of(word: str) -> list[int]:
            return [self._columns[run] for run in _runs_of(word) if run in self._columns]

        return columns_of

    @property
    def L(self) -> int:  # noqa: N802
        """How many labels it ranks."""
        return int(self.W.shape[1])

    @classmethod
    def fit(cls, names: Sequence[str | None], opening: int = 0) -> Self:
        """Take the L labels' names apart.

        Args:
            names: row → name; a label without one is never ranked.
            opening: words at a text's start that count by themselves as well.
        """
        column_of: dict[str, int] = {}
        columns, ends = array("i"), np.zeros(len(names) + 1, dtype=np.int64)
        for label, name in enumerate(names):
            runs = {run for word in _words_of(name or "") for run in _runs_of(word)}
            columns.extend(column_of.setdefault(run, len(column_of)) for run in runs)
            ends[label + 1] = len(columns)
        runs_of_all = sorted(column_of)
        place = np.empty(len(column_of), dtype=np.int32)
        place[[column_of[run] for run in runs_of_all]] = np.arange(place.size)
        indices = place[np.frombuffer(columns, dtype=np.int32)]
        uses = np.bincount(indices, minlength=place.size)
        idf = np.log((1 + len(names)) / (1 + uses.astype(np.float64))) + 1
        weights = idf[indices].astype(np.float32)
        by_name = sparse.csr_matrix((weights, indices, ends), shape=(len(names), place.size))
        by_name.sort_indices()
        sums = np.maximum(np.asarray(by_name.sum(axis=1)).ravel(), np.finfo(np.float32).tiny)
        by_name.data /= np.repeat(sums, np.diff(by_name.indptr)).astype(np.float32)
        return cls(runs_of_all, sparse.csr_matrix(by_name.T), opening)

    def rank(self, documents: Documents, K: int, *, progress: Progress = silent) -> Ranking:
        """The K labels of greatest share for each of N documents, NO_LABEL where fewer labels have a share."""
        N = len(documents)
        labels = np.full((N, K), NO_LABEL, dtype=np.int32)
        scores = np.full((N, K), -np.inf, dtype=np.float32)
        rows = max(1, _CELLS_A_CHUNK // max(self.L, 1))
        for start in range(0, N, rows):
            texts = documents.texts[start : start + rows]
            best = self._index.rank(self.runs_of(texts), K)
            labels[start : start + rows], scores[start : start + rows] = best.labels, best.scores
            progress("label names", min(start + rows, N), N, {})
        return Ranking(labels, scores)

    @cached_property
    def _index(self) -> InvertedIndex:
        # Rounding may take a share beyond 1.
        return InvertedIndex(self.W, most=1.0)

    def runs_of(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """(n, V) what a run counts in one of n texts, as it stands in the text, in its opening, or in both."""
        has = self._runs_in(texts)
        if self.opening:
            begins = [" ".join(text.split(None, self.opening)[: self.opening]) for text in texts]
            has = (has + self._runs_in(begins)) / np.float32(2)
        return sparse.csr_matrix(has)

    def _runs_in(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """(n, V) float32: 1 where one of n texts has a run that is known."""
        by_text = [{column for word in _words_of(text) for column in self._columns_of_word(word)} for text in texts]
        return _rows(by_text, len(self.runs))

    def save(self, folder: Path) -> None:
        """Write a bundle to `folder`: the runs as JSON, the weights as safetensors."""
        arrays = {part: getattr(self.W, part) for part in ("data", "indices", "indptr")}
        with FORMAT.write(folder, {"L": self.L, "opening": self.opening}) as new:
            text = json.dumps(list(self.runs), ensure_ascii=False, indent=0)
            (new / "runs.json").write_text(text + "\n", encoding="utf-8")
            save_file(arrays, new / "weights.safetensors")

    @classmethod
    def load(cls, place: Path | Bundle, device: str = "auto", batch_size: int = BATCH_SIZE) -> Self:
        """Read what `save` wrote; `device` and `batch_size` change nothing.

        Raises:
            FormatError: it is truncated, tampered with, of another kind or version, or its parts do not fit.
        """
        found = FORMAT.read(place)
        try:
            runs = read_strings(found.path / "runs.json")
            arrays = load_file(found.path / "weights.safetensors")
            shape = (len(runs), whole(found.meta, "L"))
            W = checked_csr(arrays["data"], arrays["indices"], arrays["indptr"], shape)
            return cls(runs, W, whole(found.meta, "opening", 0, MOST_OPENING))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise FormatError(f"{found.path} cannot be read as label names ({error}): make it again.") from None


def _words_of(text: str) -> set[str]:
    """A text's words: lower case, accents dropped."""
    flat = unicodedata.normalize("NFKD", text.casefold())
    if not flat.isascii():
        flat = "".join(letter for letter in flat if not unicodedata.combining(letter))
    return set(_WORD.findall(flat))


def _runs_of(word: str) -> set[str]:
    """A word's runs of letters, a blank before and after it; with its blanks shorter than a run, it is one itself."""
    padded = f" {word} "
    found = set()
    for n in range(SHORTEST, LONGEST + 1):
        if n >= len(padded):
            found.add(padded)
            break
        found.update(padded[start : start + n] for start in range(len(padded) - n + 1))
    return found


def _rows(columns: Sequence[Iterable[int]], width: int) -> sparse.csr_matrix:
    """(n, width) float32: 1 in each of n rows' columns."""
    rows = [sorted(row) for row in columns]
    ends = np.cumsum([0, *map(len, rows)])
    indices: npt.NDArray[np.int32] = np.fromiter((column for row in rows for column in row), dtype=np.int32)
    ones = np.ones(indices.size, dtype=np.float32)
    return sparse.csr_matrix((ones, indices, ends), shape=(len(rows), width))
