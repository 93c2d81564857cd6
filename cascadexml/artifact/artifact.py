"""A trained model on disk: everything that prediction needs, in one folder that is verified before it is used.

    manifest.json        SHA-256 and size of every file; where the model comes from (`Origin`), in figures and versions
    model_card.md        the same for people
    model/               the network: a bundle of `cascadexml.model`
    tokenizer/           the tokenizer's own files
    vocabulary.json      label rows, ids and names
    label_counts.npy     how many training documents each label has, which propensities are made of
    calibration.json     score → probability, and the threshold chosen on dev
    metrics.json         the evaluation on test, with intervals and baselines
    reference/           what held-out records look like to the model (`cascadexml.reference`); may be missing

Nothing here executes when it is loaded. The same inputs give the same bytes: there is no time stamp.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from cascadexml.artifact.model_card import render
from cascadexml.bundle import MANIFEST, Bundle, Format
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import DataError, FormatError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.report import EvaluationReport

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from cascadexml.rankers.base import Ranker

FORMAT = Format("cascadexml.artifact", 1)
REFERENCE_FORMAT = Format("cascadexml.reference", 1)
"""Of what `cascadexml.monitoring` adds to an artifact; here, because packing must know it."""

LIBRARIES = ("cascadexml", "numpy", "safetensors", "scipy", "tokenizers", "torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a model comes from; kept in the manifest and told in the model card.

    Attributes:
        name: what the model is called.
        params: all settings of the run, one mapping a stage, as in params.yaml.
        documents: how many documents each split has.
        data_fingerprint: the corpus's fingerprint.
        git_revision: the commit that the run's code is of; None outside a repository.
        dvc_lock: SHA-256 over what dvc.lock says of the stages before packaging; None without DVC.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    documents: Mapping[str, int] = field(default_factory=dict)
    data_fingerprint: str | None = None
    git_revision: str | None = None
    dvc_lock: str | None = None


@dataclass(frozen=True)
class Artifact:
    """A verified artifact: its folder, what its manifest tells, and its parts."""

    path: Path
    meta: Mapping[str, Any]
    fingerprint: str
    size: int

    @property
    def model(self) -> Path:
        """The folder of the network, for `CascadeXML.load`."""
        return self.path / "model"

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer."""
        return self.path / "tokenizer"

    @property
    def max_length(self) -> int:
        """Tokens that a text is cut to, special ones included."""
        return int(self.meta["max_length"])

    @property
    def reference(self) -> Path | None:
        """The folder of the reference that batches are compared with, for `Reference.load`; None without one."""
        folder = self.path / "reference"
        return folder if (folder / MANIFEST).is_file() else None

    def ranker(self, device: str = "auto", batch_size: int = 64) -> "Ranker":
        """The ranker that answers for this model.

        Args:
            device: "cpu", "cuda", "cuda:1", "mps", or "auto": the best one there is, which is logged.
            batch_size: texts scored at once.

        Raises:
            FormatError: its parts do not fit each other.
            PredictionError: `device` is not there.
        """
        from cascadexml.device import pick_device
        from cascadexml.rankers.cascade.encoder import load_tokenizer
        from cascadexml.rankers.cascade.network import CascadeXML
        from cascadexml.rankers.cascade.ranker import CascadeRanker

        chosen = pick_device(device)
        tokenizer = load_tokenizer(str(self.tokenizer))
        return CascadeRanker(CascadeXML.load(self.model, str(chosen)), tokenizer, self.max_length, batch_size)

    def vocabulary(self) -> Vocabulary:
        """The labels, whose rows the model's labels are."""
        return Vocabulary.load(self.path / "vocabulary.json")

    def calibration(self) -> Calibration:
        """Score → probability, and the threshold."""
        return Calibration.load(self.path / "calibration.json")

    def label_counts(self) -> npt.NDArray[np.int64]:
        """(len(vocabulary),): the training documents that each label has."""
        counts: npt.NDArray[np.int64] = np.load(self.path / "label_counts.npy", allow_pickle=False)
        return counts

    def metrics(self) -> EvaluationReport:
        """The evaluation on test."""
        return EvaluationReport.load(self.path / "metrics.json")


def pack(
    path: Path,
    *,
    model: Path,
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    vocabulary: Vocabulary,
    label_counts: npt.NDArray[np.integer],
    calibration: Calibration,
    metrics: EvaluationReport,
    origin: Origin,
    reference: Path | None = None,
) -> None:
    """Write an artifact to `path`, whole or not at all; one that lies there is replaced.

    Args:
        path: the artifact's folder.
        model: a bundle that `CascadeXML.save` wrote.
        tokenizer: what made the training tokens.
        max_length: tokens that texts were cut to, special ones included.
        vocabulary: its rows [0, L) are the model's labels.
        label_counts: (len(vocabulary),) training documents of each label.
        calibration: fitted on dev.
        metrics: the evaluation on test.
        origin: where all this comes from.
        reference: a bundle that `Reference.save` wrote, or None to leave it out.

    Raises:
        FormatError: `model` is no model bundle, or `reference` no reference bundle.
        DataError: `label_counts` has not one count a label.
    """
    from cascadexml.rankers.cascade.encoder import save_tokenizer
    from cascadexml.rankers.cascade.network import FORMAT as MODEL_FORMAT

    if label_counts.shape != (len(vocabulary),):
        raise DataError(f"label_counts has shape {label_counts.shape}, expected ({len(vocabulary)},): one a label.")
    MODEL_FORMAT.read(model, digests=False)
    if reference is not None:
        REFERENCE_FORMAT.read(reference, digests=False)
    encoder = json.loads((model / "encoder.json").read_text(encoding="utf-8"))
    meta = {
        **asdict(origin),
        "max_length": max_length,
        "labels": vocabulary.L,
        "parameters": _count_parameters(model / "model.safetensors"),
        "encoder": {key: encoder.get(key) for key in ("model_type", "num_hidden_layers", "hidden_size")},
        "metrics": dict(metrics.model.figures),
        "threshold": calibration.threshold,
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
    }
    with FORMAT.write(path, meta) as folder:
        # copyfile, because files in DVC's cache are read-only and a copy of their mode would be too.
        shutil.copytree(model, folder / "model", copy_function=shutil.copyfile)
        if reference is not None:
            shutil.copytree(reference, folder / "reference", copy_function=shutil.copyfile)
        save_tokenizer(tokenizer, folder / "tokenizer", model / "encoder.json")
        vocabulary.save(folder / "vocabulary.json")
        calibration.save(folder / "calibration.json")
        np.save(folder / "label_counts.npy", np.asarray(label_counts, dtype=np.int64), allow_pickle=False)
        text = json.dumps(metrics.to_json(), indent=1, sort_keys=True, ensure_ascii=False)
        (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")
        (folder / "model_card.md").write_text(render(meta, metrics), encoding="utf-8")


def open_artifact(place: str | Path | Bundle) -> Artifact:
    """Verify every byte of the artifact at `place`, and give its parts.

    Args:
        place: its folder, or the bundle that has been verified. For a model in a registry see
            `cascadexml.registry.open_model`.

    Raises:
        FormatError: it is truncated, tampered with, of another kind or version.
    """
    found = FORMAT.read(place if isinstance(place, Bundle) else Path(place))
    parts = {"model/manifest.json", "vocabulary.json", "calibration.json", "label_counts.npy", "metrics.json"}
    missing = sorted(parts - set(found.files)) or sorted({"name", "max_length", "labels"} - set(found.meta))
    if missing:
        raise FormatError(f"{found.path} is an artifact without {missing[0]}: pack or fetch it again.")
    size = sum(entry["size"] for entry in found.files.values())
    return Artifact(found.path, found.meta, found.fingerprint, size)


def _count_parameters(weights: Path) -> int:
    try:
        with safe_open(weights, framework="numpy") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise FormatError(f"{weights} cannot be read as safetensors ({error}): train again.") from None
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)
