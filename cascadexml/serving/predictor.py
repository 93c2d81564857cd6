"""Predictor: texts in, labels with calibrated probabilities out."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, overload

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cascadexml.artifact.artifact import Artifact, open_artifact
from cascadexml.data.tokens import TokenStore, length_bucketed, pad
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.device import is_out_of_memory, pick_device
from cascadexml.errors import FormatError, PredictionError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.progress import Progress, silent
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.ranking import NO_LABEL, Ranking

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

BATCHES_A_CHUNK = 16
"""Texts are sorted by length within a chunk of so many batches, so that little is padding."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label for a text: its id, its name where it has one, and the probability that it is right."""

    id: str
    name: str | None
    probability: float


class Scorer(Protocol):
    """A score source and the back end it runs on: a batch of tokens in, each text's best labels out."""

    @property
    def L(self) -> int:  # noqa: N802
        """How many labels it ranks: rows [0, L)."""
        ...

    def rank(self, input_ids: Tensor, attention_mask: Tensor, K: int) -> Ranking:
        """The best K <= L labels of each of B texts, from (B, T) int64 tokens and their mask, both on the CPU."""
        ...


class TorchScorer:
    """A `CascadeXML` model on whatever device it lies on."""

    def __init__(self, model: CascadeXML) -> None:
        self.model = model
        self.device = next(model.parameters()).device

    @property
    def L(self) -> int:  # noqa: N802
        """How many labels the model ranks."""
        return self.model.tree.L

    def rank(self, input_ids: Tensor, attention_mask: Tensor, K: int) -> Ranking:
        """The best K labels of each of B texts.

        Raises:
            PredictionError: the device has not enough memory for this batch.
        """
        try:
            found = self.model.rank(input_ids.to(self.device), attention_mask.to(self.device), K)
            rows, scores = found[0].cpu().numpy(), found[1].float().cpu().numpy()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            B, T = input_ids.shape
            raise PredictionError(
                f"{self.device} ran out of memory on a batch of {B} texts of {T} tokens: use a smaller batch size."
            ) from None
        labels = rows.astype(np.int32)
        return Ranking(labels, np.where(labels == NO_LABEL, -np.inf, scores).astype(np.float32))


class Predictor:
    """A trained model, ready to label texts.

    `Predictor.load(path)` makes one from an artifact. A text's probabilities are the same, to about 1e-6, alone and
    in any batch. A text without content (empty, white space, nothing that the tokenizer knows as a token) has no
    predictions. A long text is cut to the artifact's `max_length` tokens, as in training.

    Args:
        scorer: ranks labels for tokens.
        tokenizer: turns texts into these tokens.
        vocabulary: what the scorer's rows are called.
        calibration: turns scores into probabilities.
        max_length: tokens that a text is cut to, special ones included.
        batch_size: texts scored at once.
    """

    def __init__(
        self,
        scorer: Scorer,
        tokenizer: "PreTrainedTokenizerBase",
        vocabulary: Vocabulary,
        calibration: Calibration,
        max_length: int,
        batch_size: int = 64,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.scorer = scorer
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.calibration = calibration
        self.max_length = max_length
        self.batch_size = batch_size

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", batch_size: int = 64) -> "Predictor":
        """Load an artifact after verifying every byte of it.

        Args:
            path: the artifact's folder, or `s3://bucket/prefix/name@champion` in a registry (needs the extra `[s3]`).
            device: "cpu", "cuda", "cuda:1", "mps", or "auto": the best one there is, which is logged.
            batch_size: texts scored at once.

        Raises:
            RegistryError: the registry cannot be read, or has no such model.
            FormatError: the artifact is truncated, tampered with, of another kind or of a newer format, or its parts
                do not belong together.
            PredictionError: `device` is not there.
        """
        return cls.from_artifact(open_artifact(path), device, batch_size)

    @classmethod
    def from_artifact(cls, artifact: Artifact, device: str = "auto", batch_size: int = 64) -> "Predictor":
        """Load an artifact that `open_artifact` has just verified.

        Raises:
            FormatError: its parts do not belong together.
            PredictionError: `device` is not there.
        """
        chosen = pick_device(device)
        vocabulary = artifact.vocabulary()
        tokenizer = load_tokenizer(str(artifact.tokenizer))
        model = CascadeXML.load(artifact.model, str(chosen))
        if model.tree.L != vocabulary.L:
            raise FormatError(
                f"{artifact.path}: the model ranks {model.tree.L} labels, the vocabulary {vocabulary.L}: pack it again."
            )
        log.info("%s: %d labels, on %s", artifact.meta["name"], vocabulary.L, chosen)
        return cls(TorchScorer(model), tokenizer, vocabulary, artifact.calibration(), artifact.max_length, batch_size)

    @property
    def threshold(self) -> float:
        """The probability from which on a label is worth giving: chosen on dev for the best micro-F1."""
        return self.calibration.threshold

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too; the first match is meant
        self, texts: str, top_k: int = 5, threshold: float | None = None
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self, texts: Iterable[str], top_k: int = 5, threshold: float | None = None
    ) -> list[list[Prediction]]: ...
    def predict(
        self, texts: str | Iterable[str], top_k: int = 5, threshold: float | None = None
    ) -> list[Prediction] | list[list[Prediction]]:
        """The best labels of a text, or of each of several texts.

        Args:
            texts: one text, or any number of them.
            top_k: at most so many labels a text.
            threshold: leave out labels less probable than this, in [0, 1]; None keeps them. `self.threshold` is the
                one chosen on dev.

        Returns:
            For one text its predictions, the most probable first; for several a list of such lists, in their order.

        Raises:
            TypeError: a text is not a str.
            ValueError: `top_k` or `threshold` is out of range.
            PredictionError: out of memory.

        Example:
            >>> predictor = Predictor.load("data/models/artifact")
            >>> predictor.predict("Hydrogen storage in metal hydrides", top_k=1)
            [Prediction(id='gnd:4064784-5', name='Wasserstoff', probability=0.87)]
        """
        if isinstance(texts, str):
            return next(self.stream([texts], top_k, threshold))
        return list(self.stream(texts, top_k, threshold))

    def stream(
        self, texts: Iterable[str], top_k: int = 5, threshold: float | None = None, chunk_size: int | None = None
    ) -> Iterator[list[Prediction]]:
        """Label texts lazily and in order, holding one chunk at a time.

        Args:
            texts: any iterable of texts, endless ones included.
            top_k: at most so many labels a text.
            threshold: leave out labels less probable than this, in [0, 1]; None keeps them.
            chunk_size: texts taken from `texts` before the first of them is labelled; None means 16 batches. Small
                chunks answer sooner, large ones waste less on padding.

        Yields:
            Each text's predictions, the most probable first.

        Raises:
            TypeError: a text is not a str.
            ValueError: `top_k`, `threshold` or `chunk_size` is out of range.
            PredictionError: out of memory.
        """
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}, expected at least 1")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}, expected a probability from 0 to 1, or None")
        size = self.batch_size * BATCHES_A_CHUNK if chunk_size is None else chunk_size
        if size < 1:
            raise ValueError(f"chunk_size is {chunk_size}, expected at least 1")
        return self._stream(texts, top_k, 0.0 if threshold is None else threshold, size)

    def _stream(self, texts: Iterable[str], top_k: int, threshold: float, size: int) -> Iterator[list[Prediction]]:
        remaining = iter(texts)
        while chunk := list(islice(remaining, size)):
            ranking = self.rank(chunk, top_k)
            for rows, probabilities in zip(ranking.labels.tolist(), ranking.scores.tolist(), strict=True):
                yield [
                    Prediction(*self.vocabulary.label(row), probability)
                    for row, probability in zip(rows, probabilities, strict=True)
                    if row != NO_LABEL and probability >= threshold
                ]

    def rank(self, texts: Sequence[str] | TokenStore, K: int, progress: Progress = silent) -> Ranking:
        """The best K labels of N texts or of their tokens, as rows of the vocabulary.

        Returns:
            A ranking (N, K) whose scores are calibrated probabilities.

        Raises:
            TypeError: a text is not a str.
            PredictionError: out of memory.
        """
        if isinstance(texts, TokenStore):
            lengths: npt.NDArray[np.int32] = texts.lengths
            fetch = _fetch_from(texts)
        else:
            sequences = self._tokenize(texts)
            lengths = np.fromiter(map(len, sequences), dtype=np.int32, count=len(sequences))
            pad_id = int(self.tokenizer.pad_token_id)

            def fetch(rows: npt.NDArray[np.integer]) -> tuple[Tensor, Tensor]:
                return pad([sequences[row] for row in rows], pad_id)

        filled = np.flatnonzero(lengths > self.tokenizer.num_special_tokens_to_add())
        ranking = _rank(self.scorer, lengths, filled, fetch, K, self.batch_size, progress)
        return self.calibration.calibrated(ranking)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"text {number} is {type(text).__name__}, expected str")
        if not texts:
            return []
        encoded = self.tokenizer(
            [_clean(text) for text in texts],
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        sequences: list[list[int]] = encoded["input_ids"]
        return sequences


def rank_tokens(
    model: CascadeXML, store: TokenStore, K: int, batch_size: int = 64, progress: Progress = silent
) -> Ranking:
    """The best K labels of N tokenised documents, with the model's own scores: what calibration is fitted on.

    Batches hold documents of like length; results come back in the store's order. A model in training is put in
    evaluation mode and back.

    Args:
        model: on the device that is to do the work.
        store: N documents.
        K: how many labels.
        batch_size: documents scored at once.
        progress: called after each batch with ("rank", documents done, N, {}).

    Returns:
        A ranking (N, K) with scores in (0, 1).

    Raises:
        PredictionError: out of memory.
    """
    was_training = model.training
    model.eval()
    try:
        rows = np.arange(len(store.lengths))
        return _rank(TorchScorer(model), store.lengths, rows, _fetch_from(store), K, batch_size, progress)
    finally:
        model.train(was_training)


def _rank(
    scorer: Scorer,
    lengths: npt.NDArray[np.int32],
    documents: npt.NDArray[np.integer],
    fetch: Callable[[npt.NDArray[np.integer]], tuple[Tensor, Tensor]],
    K: int,
    batch_size: int,
    progress: Progress,
) -> Ranking:
    """Rank the `documents` among N; the others are left without labels."""
    N = len(lengths)
    labels = np.full((N, K), NO_LABEL, dtype=np.int32)
    scores = np.full((N, K), -np.inf, dtype=np.float32)
    found = min(K, scorer.L)
    done = 0
    for batch in length_bucketed(lengths[documents], batch_size):
        rows = documents[batch]
        ranking = scorer.rank(*fetch(rows), found)
        labels[rows, :found] = ranking.labels
        scores[rows, :found] = ranking.scores
        done += len(rows)
        progress("rank", done, len(documents), {})
    return Ranking(labels, scores)


def _fetch_from(store: TokenStore) -> Callable[[npt.NDArray[np.integer]], tuple[Tensor, Tensor]]:
    def fetch(rows: npt.NDArray[np.integer]) -> tuple[Tensor, Tensor]:
        batch = store.batch(rows)
        return batch.input_ids, batch.attention_mask

    return fetch


def _clean(text: str) -> str:
    """The text as tokenizers can take it: white space alone is nothing, lone surrogates become U+FFFD."""
    if not text or text.isspace():
        return ""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
