"""What a text looks like: its length, its words and its characters, each as one number a text.

A word is a run of letters. Words of train are kept as hashes, so that no text of train leaves with a reference.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from cascadexml.metrics import Float64

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

# The commonest words of English that carry no topic: their share falls when the language changes or prose turns
# into lists.
_FUNCTION_WORDS = (
    "a about after all also an and are as at be been between both but by can for from has have how in into is it its "
    "more most not of on one or other our over such than that the their them these they this through to under used "
    "was we were what when where which while who will with you your"
)
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
_WORD = re.compile(r"[^\W\d_]+")


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


def _hashes(words: Sequence[str]) -> npt.NDArray[np.uint64]:
    digests = b"".join(hashlib.blake2b(word.encode(), digest_size=8).digest() for word in words)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _are_in(hashes: npt.NDArray[np.uint64], words: npt.NDArray[np.uint64]) -> list[bool]:
    if not words.size:
        return [False] * len(hashes)
    places = np.minimum(np.searchsorted(words, hashes), words.size - 1)
    found: list[bool] = (words[places] == hashes).tolist()
    return found
