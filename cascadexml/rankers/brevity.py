"""Short texts: how much less a probability is worth where there is little to read.

A mixture is fitted on documents as they come, and two words show none of what it goes by: sources are as sure of them,
and right far less often. So windows of a few words are cut out of documents that none of the sources has learnt from,
and two numbers are fitted that take back what is said of them: with

    u = max(0, 1 - log(1 + words) / log(1 + ordinary)),    z' = (1 - slope · u) z - offset · u,

z is the log-odds that the mixture gives. Texts of ordinary length keep theirs to the bit, and no text's labels change
places.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from cascadexml.checked_json import number, object_of, whole

SHORT = 0.05
"""The share of documents that count as shorter than ordinary."""
LEAST = 4
"""Where ordinary texts have fewer words, as in a script without blanks, words do not tell how much there is to read."""
WINDOWS = 1000
"""Windows that are cut out, each of another document, as many as there are."""
STEEPEST = 0.9
"""The slope is no greater: of two labels the likelier stays it."""
_SURE = 1e-12

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Brevity:
    """What short texts' log-odds lose.

    Attributes:
        ordinary: words from which on a text keeps its probabilities; 0: every text does.
        slope: from 0 to `STEEPEST`.
        offset: any number.
    """

    ordinary: int = 0
    slope: float = 0.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.ordinary < 0 or not 0 <= self.slope <= STEEPEST or not np.isfinite(self.offset):
            raise ValueError(f"short texts are told by {self}, which is none that could be fitted")

    @classmethod
    def from_json(cls, content: object) -> Self:
        """What `dataclasses.asdict` made of one; keys left out say nothing.

        Raises:
            ValueError: it is none that could be fitted.
        """
        kept = {**asdict(cls()), **object_of(content)}
        if len(kept) > len(asdict(cls())):
            raise ValueError(f"brevity has {', '.join(sorted(kept))}, expected ordinary, slope and offset")
        return cls(whole(kept, "ordinary"), number(kept, "slope", 0, STEEPEST), number(kept, "offset", -1e100, 1e100))

    def shortness(self, texts: Sequence[str]) -> Float64:
        """(N,) u of N texts, from 0 for those of ordinary length to 1 for one without a word."""
        if not self.ordinary:
            return np.zeros(len(texts))
        u: Float64 = np.maximum(0.0, 1 - np.log1p(words_of(texts, self.ordinary)) / np.log1p(self.ordinary))
        return u

    def believed(self, probabilities: Float64, u: Float64) -> Float64:
        """(M,) what probabilities (M,) are worth in texts of shortness u (M,)."""
        z = special.logit(np.clip(probabilities, _SURE, 1 - _SURE))
        return np.where(u > 0, special.expit((1 - self.slope * u) * z - self.offset * u), probabilities)

    def shares(self, shares: Float64, u: float) -> Float64:
        """(M, S + 1) parts of the log-odds that a text of shortness u leaves of these; the last loses the offset."""
        left = (1 - self.slope * u) * shares
        left[:, -1] -= self.offset * u
        return left


def words_of(texts: Sequence[str], most: int = -1) -> Int64:
    """(N,) how many words N texts have, by the blanks between them; counting ends at `most` and one more."""
    return np.array([len(text.split(None, most)) for text in texts], dtype=np.int64)


def windows_of(texts: Sequence[str], seed: int) -> tuple[int, list[str], Int64]:
    """Short texts as somebody may ask them: windows of documents.

    Args:
        texts: N documents.
        seed: of the choice.

    Returns:
        How many words an ordinary document has at least; windows of fewer, as many from one word to two as from two to
        four and so on; the row of each window's document. No windows where ordinary documents have less than `LEAST`
        words.
    """
    words = words_of(texts)
    ordinary = int(np.quantile(words, SHORT)) if words.size else 0
    long = np.flatnonzero(words >= max(ordinary, LEAST))
    if ordinary < LEAST or not long.size:
        return 0, [], np.zeros(0, dtype=np.int64)
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(long)[:WINDOWS])
    sizes = np.floor(ordinary ** random.random(rows.size)).astype(np.int64)
    starts = np.floor((words[rows] - sizes + 1) * random.random(rows.size)).astype(np.int64)
    cut = [
        " ".join(texts[row].split()[start : start + size]) for row, start, size in zip(rows, starts, sizes, strict=True)
    ]
    return ordinary, cut, rows


def fit_brevity(probabilities: Float64, right: npt.NDArray[np.bool_], u: Float64, ordinary: int) -> Brevity:
    """The slope and offset of greatest likelihood.

    Args:
        probabilities: (M,) that a mixture gives labels of windows.
        right: (M,) whether each is a label of the window's document.
        u: (M,) shortness of the window.
        ordinary: words of an ordinary document.
    """
    if right.all() or not right.any():
        return Brevity()
    z, y = special.logit(np.clip(probabilities, _SURE, 1 - _SURE)), right.astype(np.float64)

    def loss(weights: Float64) -> tuple[float, Float64]:
        left = (1 - weights[0] * u) * z - weights[1] * u
        wrong = special.expit(left) - y
        return float((np.logaddexp(0, left) - y * left).mean()), np.array(
            [-(wrong * u * z).mean(), -(wrong * u).mean()]
        )

    bounds = optimize.Bounds([0.0, -np.inf], [STEEPEST, np.inf])
    best = optimize.minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds)
    return Brevity(ordinary, *best.x.tolist())
