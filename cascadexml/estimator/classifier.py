"""CascadeXMLClassifier: training and prediction as scikit-learn has them, from texts and labels in memory."""

import inspect
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from cascadexml.artifact import Artifact, open_artifact
from cascadexml.bundle import beside
from cascadexml.config import EncoderSettings, EvaluateSettings, Settings, TokenizeSettings, TrainSettings
from cascadexml.data.corpus import Corpus
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import ConfigError, DataError, PredictionError
from cascadexml.estimator.artifact import train_artifact
from cascadexml.estimator.records import Labels, checked_texts, names_of, raw_records
from cascadexml.estimator.settings import default_settings, flat, with_values
from cascadexml.evaluation.calibration import Threshold
from cascadexml.progress import Progress, silent
from cascadexml.ranking import NO_LABEL
from cascadexml.serving.predictor import Predictor

_ENCODER, _TOKENIZE, _TRAIN = EncoderSettings(), TokenizeSettings(), TrainSettings()

KEYS = {
    "encoder": "encoder.name",
    "max_length": "tokenize.max_length",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "encoder_lr": "train.encoder_lr",
    "head_lr": "train.head_lr",
    "precision": "train.precision",
    "device": "train.device",
    "random_state": "seed",
}
"""Argument of the constructor → the setting that it sets."""


class CascadeXMLClassifier:
    """A multi-label text classifier with scikit-learn's methods; what it trains is the pipeline's artifact.

    Clones and searches of scikit-learn work on it, without scikit-learn being imported for that; clustering labels
    needs the extra `[train]`.

    Args:
        epochs: passes over the training texts.
        batch_size: documents an optimiser step.
        max_length: tokens that a text is cut to, special ones included.
        encoder: the bundled package's name, a local folder, or a hub name.
        encoder_lr: peak learning rate of the encoder.
        head_lr: peak learning rate of the label classifiers.
        precision: "auto", "fp32" or "bf16".
        device: "auto", "cpu", "cuda" or "mps".
        threshold: `predict` leaves out labels less probable than this; "tuned" takes the one chosen on dev, 0.5
            without dev; "macro" the one chosen there for macro-F1; None keeps all.
        top_k: `predict` gives at most so many labels a text.
        random_state: seed of data order, tree, initialisation and dropout.
        settings: any other setting of the pipeline by its dotted name, such as {"cluster.leaf_size": 4}.
        checkpoint_dir: folder in which a training keeps its state: one that was killed goes on from there when `fit`
            is called with the same inputs. None keeps none.
        progress: called with (what, done, total, figures) while it trains and predicts.

    Attributes:
        classes_: (L,) label names, in the order of the columns of `predict_proba`.
        metrics_: what was measured on dev, by name; empty without dev.

    Example:
        >>> classifier = CascadeXMLClassifier(epochs=3)
        >>> classifier.fit(texts, [["physics", "energy"], ["law"], ...], dev=(dev_texts, dev_labels))
        >>> classifier.predict(["Hydrogen storage in metal hydrides"])
        [['energy', 'physics']]
    """

    def __init__(
        self,
        *,
        epochs: float = _TRAIN.epochs,
        batch_size: int = _TRAIN.batch_size,
        max_length: int = _TOKENIZE.max_length,
        encoder: str = _ENCODER.name,
        encoder_lr: float = _TRAIN.encoder_lr,
        head_lr: float = _TRAIN.head_lr,
        precision: Literal["auto", "fp32", "bf16"] = _TRAIN.precision,
        device: str = _TRAIN.device,
        threshold: Threshold = "tuned",
        top_k: int = 5,
        random_state: int = 0,
        settings: Mapping[str, Any] | None = None,
        checkpoint_dir: str | Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        # As given and unchecked: scikit-learn's clone compares them.
        self.epochs, self.batch_size, self.max_length = epochs, batch_size, max_length
        self.encoder, self.encoder_lr, self.head_lr = encoder, encoder_lr, head_lr
        self.precision, self.device = precision, device
        self.threshold, self.top_k, self.random_state = threshold, top_k, random_state
        self.settings, self.checkpoint_dir, self.progress = settings, checkpoint_dir, progress
        self._model: tuple[Artifact, Predictor] | None = None
        # Of what `fit` trained; the folder goes when the classifier does.
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return {name: getattr(self, name) for name in _arguments()}

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor.

        Raises:
            ValueError: there is no such argument.
        """
        for name, value in params.items():
            if name not in _arguments():
                raise ValueError(f"{name!r} is no parameter of {type(self).__name__}: {', '.join(_arguments())} are.")
            setattr(self, name, value)
        return self

    def fit(
        self,
        texts: Sequence[str],
        labels: Labels,
        dev: tuple[Sequence[str], Labels] | None = None,
        classes: Sequence[str] | None = None,
    ) -> Self:
        """Train.

        Args:
            texts: N texts.
            labels: N lists of label names, or an (N, L) array or sparse matrix of zeros and ones.
            dev: texts and labels of other documents, which pick the best weights, and on which probabilities are
                calibrated and the threshold is chosen. Without it the last weights are kept and scores are taken for
                probabilities.
            classes: for an indicator, the L names of its columns; None calls them "0", "1", …

        Raises:
            DataError: texts and labels do not fit each other, or a row of them cannot be trained on.
            ConfigError: a setting is wrong, does not fit the data or this machine, or scikit-learn is not installed.
            EncoderError: the encoder cannot be found or used.
            TrainingError: out of memory, or a loss that is not finite.
        """
        settings = self._settings()
        corpus = _corpus({"train": (texts, labels), **({} if dev is None else {"dev": dev})}, classes, settings)
        folder = tempfile.TemporaryDirectory(prefix="cascadexml-")
        artifact = Path(folder.name) / "artifact"
        checkpoints = Path(folder.name) / "checkpoints" if self.checkpoint_dir is None else Path(self.checkpoint_dir)
        train_artifact(corpus, settings, artifact, checkpoints=checkpoints, progress=self.progress or silent)
        self._take(open_artifact(artifact), folder)
        return self

    def predict(self, texts: Sequence[str]) -> list[list[str]]:
        """The names of the labels of N texts, the most probable first.

        Raises:
            PredictionError: it has not been fitted, or memory ran out.
            TypeError: a text is not a str.
        """
        _, predictor = self._fitted()
        return [[each.id for each in found] for found in predictor.predict(list(texts), self.top_k, self.threshold)]

    def predict_proba(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """(N, L) probabilities; labels beyond the best `evaluate.top_k` (100) of a text are not stored.

        Raises:
            PredictionError: it has not been fitted, or memory ran out.
            TypeError: a text is not a str.
        """
        _, predictor = self._fitted()
        K = flat(self.settings or {}).get("evaluate.top_k", EvaluateSettings().top_k)
        ranking = predictor.rank(list(texts), K, self.progress or silent)
        rows, places = np.nonzero(ranking.labels != NO_LABEL)
        shape = (len(texts), predictor.vocabulary.L)
        return sparse.csr_matrix((ranking.scores[rows, places], (rows, ranking.labels[rows, places])), shape=shape)

    @property
    def classes_(self) -> npt.NDArray[np.str_]:
        """(L,) label names, in the order of the columns of `predict_proba`."""
        vocabulary = self._fitted()[1].vocabulary
        return np.array(vocabulary.ids[: vocabulary.L], dtype=np.str_)

    @property
    def metrics_(self) -> Mapping[str, float]:
        """What was measured on dev, by name, such as "nDCG@5"; empty without dev."""
        return self._fitted()[0].metrics().dev

    def save(self, folder: str | Path) -> None:
        """Write the artifact, which `Predictor.load`, `cascadexml predict` and the registry take too.

        Raises:
            PredictionError: it has not been fitted.
        """
        with beside(Path(folder)) as new:
            shutil.copytree(self._fitted()[0].path, new)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> Self:
        """A classifier that predicts with an artifact: what `save` wrote, or the pipeline.

        Its parameters are those that the artifact was trained with, as far as it tells them.

        Raises:
            FormatError: the artifact is truncated, tampered with, or of another kind or version.
            PredictionError: `device` is not there.
        """
        artifact = open_artifact(folder)
        params = artifact.meta["params"]
        known = {argument: _at(params, key) for argument, key in KEYS.items()}
        classifier = cls(**{name: value for name, value in known.items() if value is not None} | {"device": device})
        classifier._take(artifact)
        return classifier

    def _settings(self) -> Settings:
        values = {key: getattr(self, argument) for argument, key in KEYS.items()}
        others = flat(self.settings or {})
        if twice := sorted(set(others) & set(values)):
            raise ConfigError(f"settings holds {twice[0]}, which is an argument of its own: set it there.")
        if isinstance(self.batch_size, int) and self.batch_size > 0:
            # No larger than the default, and a divisor, whatever the batch size.
            most = min(_TRAIN.micro_batch_size, self.batch_size)
            size = next(size for size in range(most, 0, -1) if self.batch_size % size == 0)
            others.setdefault("train.micro_batch_size", size)
        return with_values(default_settings("texts in memory"), {**values, **others})

    def _take(self, artifact: Artifact, folder: tempfile.TemporaryDirectory[str] | None = None) -> None:
        self._model, self._folder = (artifact, Predictor.from_artifact(artifact, self.device)), folder

    def _fitted(self) -> tuple[Artifact, Predictor]:
        if self._model is None:
            raise PredictionError(f"this {type(self).__name__} is not fitted: call fit, or load a saved one.")
        return self._model


def _arguments() -> list[str]:
    return [name for name in inspect.signature(CascadeXMLClassifier.__init__).parameters if name != "self"]


def _at(params: Mapping[str, Any], dotted: str) -> Any:
    found: Any = params
    for key in dotted.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _corpus(
    splits: Mapping[str, tuple[Sequence[str], Labels]], classes: Sequence[str] | None, settings: Settings
) -> Corpus:
    tables: dict[str, pa.Table] = {}
    columns: Vocabulary | None = None
    for split, (texts, labels) in splits.items():
        names, vocabulary = names_of(labels, split, classes)
        if split != "train" and vocabulary != columns:
            raise DataError(
                f"the labels of {split} have not the form of those of train: give both as lists or both as "
                "indicators with the same columns."
            )
        columns = vocabulary
        tables[split] = raw_records(checked_texts(texts, split), names, split, settings.validate)
    return Corpus.from_records(tables, {}, columns)
