"""Predictor: texts in, labels with calibrated probabilities out."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from cascadexml.artifact.artifact import Artifact
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import FormatError, PredictionError
from cascadexml.evaluation.calibration import Calibration, Threshold
from cascadexml.metrics import Float64
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import BATCH_SIZE, Documents, Ranker
from cascadexml.rankers.explaining import Explainer, Explanation
from cascadexml.ranking import NO_LABEL, Ranking
from cascadexml.registry.opening import open_model

log = logging.getLogger(__name__)

BATCHES_A_CHUNK = 16
"""Texts are sorted by length within a chunk of so many batches, so that little is padding."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label for a text: its id, its name where it has one, and the probability that it is right."""

    id: str
    name: str | None
    probability: float


@dataclass(frozen=True, slots=True)
class Explained:
    """A prediction and why it was given.

    Attributes:
        prediction: the label.
        explanation: the log-odds of the ranker's score, in parts.
        calibration: what calibration adds to these log-odds: both together are those of the probability.
    """

    prediction: Prediction
    explanation: Explanation
    calibration: float


class Predictor:
    """A trained model, ready to label texts.

    `Predictor.load(path)` makes one from an artifact. A text's probabilities are the same, to about 1e-6, alone and
    in any batch. A text without content (empty, white space, nothing that the tokenizer knows as a token) has no
    predictions. A long text is cut to the artifact's `max_length` tokens, as in training.

    Args:
        ranker: ranks labels for texts.
        vocabulary: what the ranker's rows are called.
        calibration: turns scores into probabilities.
        batch_size: texts that the ranker scores at once: a stream takes 16 times as many at a time.
        uses: (len(vocabulary),) training documents of each label, which `min_precision` needs.
    """

    def __init__(
        self,
        ranker: Ranker,
        vocabulary: Vocabulary,
        calibration: Calibration,
        batch_size: int = BATCH_SIZE,
        uses: npt.NDArray[np.int64] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.ranker = ranker
        self.vocabulary = vocabulary
        self.calibration = calibration
        self.batch_size = batch_size
        self.uses = uses

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", batch_size: int = 64) -> "Predictor":
        """Load an artifact after verifying every byte of it.

        Args:
            path: the artifact's folder, or `s3://bucket/prefix/name@champion` in a registry (needs the extra `[s3]`).
            device: "cpu", "cuda", "cuda:1", "mps", or "auto": the best one there is, which is logged.
            batch_size: texts scored at once.

        Raises:
            RegistryError: the registry cannot be read, or has no such model.
            FormatError: the artifact is truncated, tampered with, of another kind or version, or its parts
                do not belong together.
            PredictionError: `device` is not there.
        """
        return cls.from_artifact(open_model(path), device, batch_size)

    @classmethod
    def from_artifact(cls, artifact: Artifact, device: str = "auto", batch_size: int = 64) -> "Predictor":
        """Load an artifact that `open_model` or `open_artifact` has just verified.

        Raises:
            FormatError: its parts do not belong together.
            PredictionError: `device` is not there.
        """
        ranker, vocabulary = artifact.ranker(device, batch_size), artifact.vocabulary()
        if ranker.L != vocabulary.L:
            raise FormatError(
                f"{artifact.path}: the model ranks {ranker.L} labels, the vocabulary {vocabulary.L}: pack it again."
            )
        log.info("%s: %d labels", artifact.meta["name"], vocabulary.L)
        return cls(ranker, vocabulary, artifact.calibration(), batch_size, artifact.label_counts())

    @property
    def threshold(self) -> float:
        """The probability from which on a label is worth giving: chosen on dev for the best micro-F1."""
        return self.calibration.threshold

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a Sequence[str] too; the first match is meant
        self, texts: str, top_k: int = 5, threshold: Threshold = None, min_precision: float | None = None
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self, texts: Iterable[str], top_k: int = 5, threshold: Threshold = None, min_precision: float | None = None
    ) -> list[list[Prediction]]: ...
    def predict(
        self,
        texts: str | Iterable[str],
        top_k: int = 5,
        threshold: Threshold = None,
        min_precision: float | None = None,
    ) -> list[Prediction] | list[list[Prediction]]:
        """The best labels of a text, or of each of several texts.

        Args:
            texts: one text, or any number of them.
            top_k: at most so many labels a text.
            threshold: leave out labels less probable than this, in [0, 1]; None keeps them. "tuned" is
                `self.threshold`, chosen on dev for micro-F1; "macro" the one chosen there for macro-F1.
            min_precision: in (0, 1]: leave out labels that on dev were right less often, by label frequency.

        Returns:
            For one text its predictions, the most probable first; for several a list of such lists, in their order.

        Raises:
            TypeError: a text is not a str.
            ValueError: `top_k`, `threshold` or `min_precision` is out of range.
            PredictionError: out of memory, or dev did not reach the precision.

        Example:
            >>> predictor = Predictor.load("data/models/artifact")
            >>> predictor.predict("Hydrogen storage in metal hydrides", top_k=1)
            [Prediction(id='gnd:4064784-5', name='Wasserstoff', probability=0.87)]
        """
        if isinstance(texts, str):
            return next(self.stream([texts], top_k, threshold, min_precision=min_precision))
        return list(self.stream(texts, top_k, threshold, min_precision=min_precision))

    def stream(
        self,
        texts: Iterable[str],
        top_k: int = 5,
        threshold: Threshold = None,
        chunk_size: int | None = None,
        min_precision: float | None = None,
    ) -> Iterator[list[Prediction]]:
        """Label texts lazily and in order, holding one chunk at a time.

        Args:
            texts: any iterable of texts, endless ones included.
            top_k: at most so many labels a text.
            threshold: as of `predict`.
            chunk_size: texts taken from `texts` before the first of them is labelled; None means 16 batches. Small
                chunks answer sooner, large ones waste less on padding.
            min_precision: as of `predict`.

        Yields:
            Each text's predictions, the most probable first.

        Raises:
            TypeError: a text is not a str.
            ValueError: `top_k`, `threshold`, `min_precision` or `chunk_size` is out of range.
            PredictionError: out of memory, or dev did not reach the precision.
        """
        return self._stream(
            texts, min(top_k, self.vocabulary.L), *self._checked(top_k, threshold, min_precision, chunk_size)
        )

    def _checked(
        self, top_k: int, threshold: Threshold, min_precision: float | None, chunk_size: int | None
    ) -> tuple[Float64, int]:
        """The least probability of each label (V,), and the texts of a chunk."""
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}, expected at least 1")
        size = self.batch_size * BATCHES_A_CHUNK if chunk_size is None else chunk_size
        if size < 1:
            raise ValueError(f"chunk_size is {chunk_size}, expected at least 1")
        return np.broadcast_to(self.calibration.least(threshold, min_precision, self.uses), len(self.vocabulary)), size

    def _stream(self, texts: Iterable[str], top_k: int, least: Float64, size: int) -> Iterator[list[Prediction]]:
        for chunk in _chunks(texts, size):
            yield from self._predictions(self.rank(chunk, top_k), least)

    def _predictions(self, ranking: Ranking, least: Float64) -> Iterator[list[Prediction]]:
        for rows, probabilities in zip(ranking.labels.tolist(), ranking.scores.tolist(), strict=True):
            yield [
                Prediction(*self.vocabulary.label(row), probability)
                for row, probability in zip(rows, probabilities, strict=True)
                if row != NO_LABEL and probability >= least[row]
            ]

    @overload
    def explain(  # type: ignore[overload-overlap]  # as of `predict`
        self,
        texts: str,
        top_k: int = 5,
        threshold: Threshold = None,
        records: int = 3,
        terms: int = 5,
        min_precision: float | None = None,
    ) -> list[Explained]: ...
    @overload
    def explain(
        self,
        texts: Iterable[str],
        top_k: int = 5,
        threshold: Threshold = None,
        records: int = 3,
        terms: int = 5,
        min_precision: float | None = None,
    ) -> list[list[Explained]]: ...
    def explain(
        self,
        texts: str | Iterable[str],
        top_k: int = 5,
        threshold: Threshold = None,
        records: int = 3,
        terms: int = 5,
        min_precision: float | None = None,
    ) -> list[Explained] | list[list[Explained]]:
        """What `predict` gives for the same texts, each label with the reasons for its probability.

        Args:
            texts, top_k, threshold, min_precision: as of `predict`.
            records: at most so many training records that carry the label, of each index.
            terms: at most so many terms for the label, and so many against it.

        Raises:
            TypeError, ValueError: as of `predict`, or `records` or `terms` is below 0.
            PredictionError: as of `predict`, or the ranker cannot explain.
        """
        if isinstance(texts, str):
            return next(self.explain_stream([texts], top_k, threshold, records, terms, min_precision=min_precision))
        return list(self.explain_stream(texts, top_k, threshold, records, terms, min_precision=min_precision))

    def explain_stream(
        self,
        texts: Iterable[str],
        top_k: int = 5,
        threshold: Threshold = None,
        records: int = 3,
        terms: int = 5,
        chunk_size: int | None = None,
        min_precision: float | None = None,
    ) -> Iterator[list[Explained]]:
        """`explain` lazily and in order, as `stream` is to `predict`."""
        if records < 0 or terms < 0:
            raise ValueError(f"records is {records} and terms {terms}, expected at least 0")
        ranker = self.ranker
        if not isinstance(ranker, Explainer):
            raise PredictionError(
                f"the model's ranker is of the kind {ranker.kind!r}, which cannot explain, expected a blend: predict "
                "without explanations, or make an artifact of a blend."
            )
        least, size = self._checked(top_k, threshold, min_precision, chunk_size)
        return _explain(self, ranker, texts, min(top_k, self.vocabulary.L), least, size, records, terms)

    def rank(self, documents: Sequence[str] | Documents, K: int, progress: Progress = silent) -> Ranking:
        """The best K labels of N texts, as rows of the vocabulary.

        Args:
            documents: N texts, or `Documents` that may have been tokenised already.
            K: how many labels.
            progress: called with (what, documents done, documents in all, {}).

        Returns:
            A ranking (N, K) whose scores are calibrated probabilities.

        Raises:
            TypeError: a text is not a str.
            PredictionError: out of memory.
        """
        whole = documents if isinstance(documents, Documents) else Documents(documents)
        ranking = self.ranker.rank(whole, max(K, self.calibration.places), progress=progress)
        return self.calibration.calibrated(ranking, K)


def _chunks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    remaining = iter(texts)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _explain(
    predictor: Predictor,
    ranker: Explainer,
    texts: Iterable[str],
    top_k: int,
    least: Float64,
    size: int,
    records: int,
    terms: int,
) -> Iterator[list[Explained]]:
    calibration, vocabulary = predictor.calibration, predictor.vocabulary
    for chunk in _chunks(texts, size):
        ranking, explanations = ranker.rank_to_explain(Documents(chunk), max(top_k, calibration.places))
        log_odds = calibration.log_odds(ranking.scores)
        found = predictor._predictions(calibration.calibrated(ranking, top_k), least)
        for document, predictions in enumerate(found):
            rows = [vocabulary.row(prediction.id) for prediction in predictions]
            reasons = explanations.of(document, rows, records, terms)
            own = dict(zip(ranking.labels[document].tolist(), log_odds[document].tolist(), strict=True))
            yield [
                Explained(prediction, reason, own[row] - reason.log_odds)
                for row, prediction, reason in zip(rows, predictions, reasons, strict=True)
            ]
