"""Token ids of texts, ragged without padding, in length-bucketed batches: in memory, or in a store on disk.

A store is read by memory map, so that a corpus of any size is trained on and ranked.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase
from transformers.tokenization_utils_base import TruncationStrategy
from transformers.utils.generic import PaddingStrategy

from cascadexml.bundle import Format
from cascadexml.checked_json import whole
from cascadexml.errors import ConfigError, DataError, EncoderError, FormatError
from cascadexml.progress import Progress

FORMAT = Format("cascadexml.tokens", 2)
CHUNK = 4096
"""Texts tokenised, and rows checked, at a time."""
CHARACTERS = 2**20
"""Of a text that a tokenizer sees: the rest is cut off before."""
WINDOW = 50
"""Batches that share a length-sorted window: long enough to save padding, short enough to mix the data."""

Encoded = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""(ids of all texts in a row, length of each text)."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Some texts, padded on the right to the longest of them.

    Attributes:
        rows: (B,) int64, which texts.
        input_ids: (B, T) int64 tensor, the padding id after each row's end.
        attention_mask: (B, T) int64 tensor, 1 for a token and 0 for padding.
    """

    rows: npt.NDArray[np.int64]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor


@dataclass(frozen=True, eq=False)
class Tokens:
    """The token ids of N texts, special tokens included.

    Attributes:
        lengths: (N,) int32, tokens of each text.
        pad_id: the tokenizer's padding id.
        special_tokens: how many tokens the tokenizer puts around every text; a text that has no others has no content.
    """

    lengths: npt.NDArray[np.int32]
    pad_id: int
    special_tokens: int
    _starts: npt.NDArray[np.int64]
    _tokens: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def with_content(self) -> npt.NDArray[np.int64]:
        """(n,) the rows of the texts that have more than special tokens."""
        return np.flatnonzero(self.lengths > self.special_tokens)

    def take(self, rows: npt.NDArray[np.integer]) -> "Tokens":
        """The texts of some rows, in the order given; no token is copied."""
        return Tokens(self.lengths[rows], self.pad_id, self.special_tokens, self._starts[rows], self._tokens)

    def batch(self, rows: npt.NDArray[np.integer]) -> TokenBatch:
        """Some texts, in the order given, padded to the longest of them.

        Args:
            rows: (B,) numbers from 0 to N - 1.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(f"rows must lie in 0..{len(self) - 1}")
        lengths = self.lengths[wanted].astype(np.int64)
        starts = np.repeat(self._starts[wanted] - (np.cumsum(lengths) - lengths), lengths)
        flat = self._tokens[starts + np.arange(starts.size)]
        mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
        ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        ids[mask] = flat
        return TokenBatch(wanted, torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)))


@dataclass(frozen=True, eq=False)
class TokenStore(Tokens):
    """Tokens on disk, as one flat array with offsets.

    Attributes:
        max_length: the longest that a text may be, special tokens included.
        fingerprint: SHA-256 that is equal for equal tokens and settings.
        vocabulary_size: every id is below it.
        tokenizer_fingerprint: what `tokenizer_fingerprint` gave for the tokenizer that wrote the store.
        texts_fingerprint: SHA-256 over the texts, in order.
    """

    max_length: int
    fingerprint: str
    vocabulary_size: int
    tokenizer_fingerprint: str
    texts_fingerprint: str

    @classmethod
    def build(
        cls,
        path: Path,
        texts: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        processes: int | None = None,
        progress: Progress | None = None,
    ) -> "TokenStore":
        """Tokenise texts chunk by chunk into a store at `path`.

        Special tokens stand where the tokenizer puts them; truncation keeps them.

        Args:
            path: where the store will lie; an older one there is replaced.
            texts: N texts; read once, in order, never held all at once.
            tokenizer: any tokenizer of transformers that has a padding token.
            max_length: tokens kept of a text, special tokens included.
            processes: 1 for a single thread; more, or None, for one a core (a tokenizer written in Rust runs threads
                of its own, their number is fixed at its first use; one written in Python gets that many processes).
            progress: called after each chunk when the number of texts is known.

        Raises:
            ConfigError: the encoder cannot read `max_length` tokens, or special tokens fill them.
            DataError: a text gives no token at all.
            EncoderError: the tokenizer has no padding token.
        """
        meta = _meta(tokenizer, max_length)
        dtype = np.dtype(meta["dtype"])
        total = len(texts) if isinstance(texts, Sized) else None
        digest = hashlib.sha256()
        lengths: list[npt.NDArray[np.int64]] = []
        done = 0
        # The manifest is written when the block ends, so that `meta` can gain what only the whole run tells.
        with FORMAT.write(path, meta) as folder, (folder / "tokens.bin").open("wb") as file:
            for ids, sizes in _encode(_digested(texts, digest), tokenizer, max_length, processes):
                if not sizes.all():
                    raise DataError(f"text {done + int(np.argmin(sizes))} gives no token: remove it from the corpus.")
                ids.astype(dtype).tofile(file)
                lengths.append(sizes)
                done += sizes.size
                if progress is not None and total is not None:
                    progress(f"tokenise {path.name}", done, total, {})
            np.save(folder / "offsets.npy", np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *lengths])))
            meta["texts"] = digest.hexdigest()
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> "TokenStore":
        """Open a store; its tokens stay on disk until a batch asks for them.

        Raises:
            FormatError: the store is missing, truncated, tampered with, of another version, or inconsistent.
        """
        bundle = FORMAT.read(path)
        try:
            meta = bundle.meta
            dtype = np.dtype({"<u2": "<u2", "<i4": "<i4"}[meta["dtype"]])
            pad_id, max_length, vocabulary_size, special_tokens = (
                whole(meta, k) for k in ("pad_id", "max_length", "vocabulary_size", "special_tokens")
            )
            tokenizer, texts = str(meta["tokenizer"]), str(meta["texts"])
            offsets = np.load(path / "offsets.npy", allow_pickle=False)
            size = (path / "tokens.bin").stat().st_size
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{path} is no whole token store ({error!r}): tokenise the corpus again.") from None
        lengths = np.diff(offsets)
        if (
            offsets.dtype != np.int64
            or offsets.ndim != 1
            or offsets.size == 0
            or offsets[0] != 0
            or (lengths < 1).any()
            or (lengths > max_length).any()
            or offsets[-1] * dtype.itemsize != size
            or not 0 <= pad_id < vocabulary_size
            or not 0 <= special_tokens < max_length
        ):
            raise FormatError(f"{path} has offsets or settings that do not fit its tokens: tokenise the corpus again.")
        # An empty file cannot be mapped.
        tokens = np.memmap(path / "tokens.bin", dtype=dtype, mode="r") if size else np.empty(0, dtype=dtype)
        for start in range(0, tokens.size, 2**24):
            part = tokens[start : start + 2**24]
            if part.max() >= vocabulary_size or part.min() < 0:
                raise FormatError(f"{path / 'tokens.bin'} holds an id outside the vocabulary: tokenise it again.")
        return cls(
            lengths=lengths.astype(np.int32),
            pad_id=pad_id,
            special_tokens=special_tokens,
            max_length=max_length,
            fingerprint=hashlib.sha256(
                f"{bundle.fingerprint} {json.dumps(dict(meta), sort_keys=True)}".encode()
            ).hexdigest(),
            vocabulary_size=vocabulary_size,
            tokenizer_fingerprint=tokenizer,
            texts_fingerprint=texts,
            _starts=offsets[:-1],
            _tokens=tokens,
        )


def tokenize(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokens:
    """The token ids of N texts, in memory.

    White space alone is no text, and half a surrogate pair stands for U+FFFD, here as in a store.

    Args:
        texts: N texts.
        tokenizer: any tokenizer of transformers that has a padding token.
        max_length: tokens kept of a text, special tokens included.
    """
    encoded = [
        _encode_chunk(tokenizer, max_length, list(texts[start : start + CHUNK]))
        for start in range(0, len(texts), CHUNK)
    ]
    ids = np.concatenate([np.zeros(0, dtype=np.int64), *(part for part, _ in encoded)])
    lengths = np.concatenate([np.zeros(0, dtype=np.int64), *(sizes for _, sizes in encoded)])
    starts = np.cumsum(lengths) - lengths
    pad_id, special_tokens = int(tokenizer.pad_token_id), tokenizer.num_special_tokens_to_add()
    return Tokens(lengths.astype(np.int32), pad_id, special_tokens, starts, ids)


def _meta(tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, Any]:
    """What a store's manifest tells of how its tokens are made, before there are any."""
    if tokenizer.pad_token_id is None:
        raise EncoderError(f"{type(tokenizer).__name__} has no padding token: choose an encoder that has one.")
    specials = tokenizer.num_special_tokens_to_add()
    if not specials < max_length <= tokenizer.model_max_length:
        raise ConfigError(
            f"tokenize.max_length is {max_length}, but this encoder reads from {specials + 1} "
            f"to {tokenizer.model_max_length} tokens: choose a number in between."
        )
    vocabulary_size = 1 + max(tokenizer.get_vocab().values())
    dtype = np.dtype("<u2") if vocabulary_size <= 2**16 else np.dtype("<i4")
    return {
        "dtype": dtype.str,
        "max_length": max_length,
        "pad_id": tokenizer.pad_token_id,
        "special_tokens": specials,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "vocabulary_size": vocabulary_size,
    }


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over what decides a tokenizer's output: its rules, vocabulary and special tokens."""
    if tokenizer.is_fast:
        rules = json.loads(tokenizer.backend_tokenizer.to_str())
        # These two change with every call of the tokenizer.
        rules.pop("truncation"), rules.pop("padding")
    else:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    content = {"rules": rules, "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def length_bucketed(
    lengths: npt.NDArray[np.integer], batch_size: int, *, seed: int | None = None, epoch: int = 0
) -> list[npt.NDArray[np.int64]]:
    """Cut all rows into batches of rows of like length; each row stands in exactly one, at most one batch is short.

    With a seed, rows are shuffled by (seed, epoch), sorted by length inside windows of 50 batches, and the batches
    shuffled. Without, rows go from the longest to the shortest, so that the largest batch comes first.

    Args:
        lengths: (N,) tokens of each row.
        batch_size: rows a batch.
        seed: decides the shuffle together with `epoch`; None for none.
        epoch: counts passes over the data.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected at least 1")
    N = len(lengths)
    cuts = range(batch_size, N, batch_size)
    if N == 0:
        return []
    if seed is None:
        return np.split(np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable"), cuts)
    random = np.random.default_rng([seed, epoch])
    shuffled = random.permutation(N)
    window = np.arange(N) // (WINDOW * batch_size)
    batches = np.split(shuffled[np.lexsort((np.asarray(lengths)[shuffled], window))], cuts)
    return [batches[i] for i in random.permutation(len(batches))]


def _digested(texts: Iterable[str], digest: Any) -> Iterator[str]:
    for text in texts:
        # The length in front keeps ["ab", "c"] and ["a", "bc"] apart.
        content = text.encode("utf-8", errors="surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
        yield text


def _encode(
    texts: Iterator[str], tokenizer: PreTrainedTokenizerBase, max_length: int, processes: int | None
) -> Iterator[Encoded]:
    """Tokenise chunk by chunk, in order."""
    chunks = iter(lambda: list(itertools.islice(texts, CHUNK)), [])
    encode = partial(_encode_chunk, tokenizer, max_length)
    workers = processes or os.cpu_count() or 1
    if tokenizer.is_fast or workers == 1:
        with _tokenizer_threads(workers):
            yield from map(encode, chunks)
        return
    # The map takes all its input at once, so it is fed a few chunks a worker at a time.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        while some := list(itertools.islice(chunks, 4 * workers)):
            yield from pool.map(encode, some)


def _encode_chunk(tokenizer: PreTrainedTokenizerBase, max_length: int, texts: list[str]) -> Encoded:
    cleaned = [_clean(text) for text in texts]
    if tokenizer.is_fast:
        encoded = _encode_fast(tokenizer, max_length, cleaned)
    else:
        encoded = tokenizer(cleaned, truncation=True, max_length=max_length)["input_ids"]
    lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    ids = np.fromiter(itertools.chain.from_iterable(encoded), dtype=np.int64, count=int(lengths.sum()))
    return ids, lengths


def _encode_fast(tokenizer: PreTrainedTokenizerBase, max_length: int, texts: list[str]) -> list[list[int]]:
    """What the tokenizer's call gives, from the Rust tokenizer itself: the call makes much else of each text first."""
    tokenizer.set_truncation_and_padding(
        PaddingStrategy.DO_NOT_PAD, TruncationStrategy.LONGEST_FIRST, max_length, 0, None, None
    )
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = tokenizer.split_special_tokens
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(texts)]
    except BaseException as error:
        if type(error) is not Exception and not is_panic(error):
            raise
        raise EncoderError(f"the tokenizer's rules do not work on a text ({error}): make the model again.") from None


def is_panic(error: BaseException) -> bool:
    """Whether the Rust tokenizers gave up: their class for it derives from BaseException and lies in no module."""
    return type(error).__name__ == "PanicException"


def _clean(text: str) -> str:
    """The text as tokenizers can take it."""
    if not text or text.isspace():
        return ""
    # Nobody's first thousand tokens end so late, and a tokenizer takes some hundred bytes for a character.
    text = text[:CHARACTERS]
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@contextmanager
def _tokenizer_threads(workers: int) -> Iterator[None]:
    """Tell the Rust tokenizers how many threads to use: only the environment reaches them."""
    wanted = {"TOKENIZERS_PARALLELISM": "true" if workers > 1 else "false", "RAYON_NUM_THREADS": str(workers)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
