"""A trained model on disk: everything that prediction needs, in one folder that is verified before it is used.

    manifest.json        SHA-256 and size of every file; where the model comes from (`Origin`), in figures and versions
    model_card.md        the same for people
    rankers/KIND/        the ranker that answers, and others if there are any: bundles as `load_ranker` reads them;
                         a blend holds its sources, the cascade among them
    vocabulary.json      label rows, ids and names
    label_counts.npy     how many training documents each label has, which propensities are made of
    calibration.json     score → probability, and the thresholds chosen on dev
    metrics.json         the evaluation on test, with intervals and baselines
    reference/           what held-out records look like to the model (`cascadexml.reference`); may be missing

Nothing here executes when it is loaded. `pack` writes it; the same inputs give the same bytes: there is no time stamp.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cascadexml.artifact.formats import ARTIFACT, REFERENCE, exported_from, networks
from cascadexml.bundle import MANIFEST, Bundle, Format, sha256_of
from cascadexml.checked_json import number, object_of, shown, strings_of, text_of, whole
from cascadexml.data.sparse_files import read_npy
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import FormatError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.report import EvaluationReport

if TYPE_CHECKING:
    from cascadexml.rankers.base import Ranker


@dataclass(frozen=True)
class Artifact:
    """A verified artifact and its parts; what its manifest covers is not hashed again when a part is loaded.

    Attributes:
        bundle: its folder, and what its manifest says.
        fingerprint: SHA-256 of the manifest's bytes: what the registry, judgements and verdicts know the model by.
    """

    bundle: Bundle
    fingerprint: str

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.bundle.path

    @property
    def meta(self) -> Mapping[str, Any]:
        """What its manifest tells: `Origin` and figures."""
        return self.bundle.meta

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(entry["size"] for entry in self.bundle.files.values())

    @property
    def reference(self) -> Bundle | None:
        """The reference that batches are compared with, for `Reference.load`; None without one.

        Raises:
            FormatError: it is none, or of other labels.
        """
        if f"reference/{MANIFEST}" not in self.bundle.files:
            return None
        found = self.bundle.part("reference", REFERENCE)
        if found.meta.get("labels") != self.meta["labels"]:
            raise FormatError(f"{found.path} is the reference of another model: pack the artifact again.")
        return found

    def ranker_bundle(self, kind: str | None = None) -> Bundle:
        """The bundle of the ranker of a kind; by default of the one that answers.

        Raises:
            FormatError: there is none of this kind.
        """
        from cascadexml.rankers.base import FORMATS

        chosen = kind or self.meta["ranker"]
        if chosen not in self.meta["rankers"] or chosen not in FORMATS:
            raise FormatError(
                f"{self.path} holds the rankers {', '.join(self.meta['rankers'])}, expected {chosen!r} as this library "
                f"knows it ({', '.join(FORMATS)}): take another artifact, or install a newer cascadexml."
            )
        return self.bundle.part(f"rankers/{chosen}", FORMATS[chosen])

    @property
    def ranker_fingerprint(self) -> str:
        """Fingerprint of the bundle of the ranker that answers: equal content, equal fingerprint."""
        return self.ranker_bundle().fingerprint

    @property
    def measured_ranker(self) -> str:
        """Fingerprint of the ranker that the reference and the figures are of: of an export, that of its original."""
        exported = exported_from(self.bundle)
        return self.ranker_fingerprint if exported is None else exported.ranker

    def ranker(self, device: str = "auto", batch_size: int = 64) -> "Ranker":
        """The ranker that answers for this model.

        Args:
            device: "cpu", "cuda", "cuda:1", "mps", or "auto": the best one there is, which is logged.
            batch_size: texts scored at once.

        Raises:
            FormatError: its parts do not fit each other.
            PredictionError: `device` is not there.
        """
        from cascadexml.rankers.loading import load_ranker

        found = load_ranker(self.ranker_bundle(), device, batch_size)
        if found.L != self.meta["labels"]:
            raise FormatError(
                f"{self.path}: the model ranks {found.L} labels, the vocabulary {self.meta['labels']}: pack it again."
            )
        return found

    @property
    def network(self) -> Bundle:
        """The cascade's network, for `CascadeXML.load`; of an ensemble the first member's.

        Raises:
            FormatError: this artifact holds no cascade.
        """
        from cascadexml.rankers.cascade.network import FORMAT as NETWORK_FORMAT

        return self._cascade_part("network", NETWORK_FORMAT)

    @property
    def tree(self) -> Bundle:
        """The cascade's label tree, for `LabelTree.load`; of an ensemble the first member's.

        Raises:
            FormatError: this artifact holds no cascade.
        """
        from cascadexml.labels.tree import FORMAT as TREE_FORMAT

        return self._cascade_part("network/tree", TREE_FORMAT)

    def _cascade_part(self, name: str, format_: Format) -> Bundle:
        places = networks(self.bundle.files)
        if not places:
            raise FormatError(
                f"{self.path} holds the rankers {', '.join(self.meta['rankers'])} and no cascade in torch: take "
                "another one."
            )
        return self.bundle.part(f"{places[0]}/{name}", format_)

    def vocabulary(self) -> Vocabulary:
        """The labels, whose rows the ranker's labels are.

        Raises:
            FormatError: it is no vocabulary, or of another model.
        """
        found = Vocabulary.load(self.path / "vocabulary.json", digest=False)
        if found.L != self.meta["labels"]:
            raise FormatError(
                f"{self.path}: the vocabulary has {found.L} labels to rank, the manifest says {self.meta['labels']}: "
                "pack it again."
            )
        return found

    def calibration(self) -> Calibration:
        """Score → probability, and the threshold."""
        return Calibration.load(self.path / "calibration.json")

    def metrics(self) -> EvaluationReport:
        """The evaluation on test."""
        return EvaluationReport.load(self.path / "metrics.json")

    def label_counts(self) -> npt.NDArray[np.int64]:
        """(len(vocabulary),): the training documents that each label has.

        Raises:
            FormatError: they are no counts.
        """
        file = self.path / "label_counts.npy"
        try:
            counts: npt.NDArray[np.int64] = read_npy(file)
            if counts.dtype != np.int64 or counts.ndim != 1 or (counts < 0).any():
                raise ValueError(f"it holds {counts.dtype} of {counts.shape}, expected counts in int64")
        except (OSError, ValueError) as error:
            raise FormatError(f"{file} cannot be read as counts of documents ({error}): pack it again.") from None
        return counts

    def section(self, name: str) -> Mapping[str, Any]:
        """A section of the settings that made it, empty where its manifest has none.

        Raises:
            FormatError: it is no section.
        """
        try:
            return object_of(self.meta["params"].get(name, {}))
        except ValueError as error:
            raise FormatError(f"{self.path}/{MANIFEST}: params.{name}: {error}; pack it again.") from None


def open_artifact(place: str | Path | Bundle) -> Artifact:
    """Verify every byte of the artifact at `place`, and give its parts.

    Args:
        place: its folder, or the bundle that has been verified. For a model in a registry see
            `cascadexml.registry.open_model`.

    Raises:
        FormatError: it is truncated, tampered with, of another kind or version.
    """
    found = ARTIFACT.read(place if isinstance(place, Bundle) else Path(place))
    meta = found.meta
    missing = sorted(_TOLD - set(meta))
    if not missing:
        _check_meta(found)
        parts = {"vocabulary.json", "calibration.json", "label_counts.npy", "metrics.json"}
        parts |= {f"rankers/{kind}/{MANIFEST}" for kind in (*meta["rankers"], meta["ranker"])}
        missing = sorted(parts - set(found.files))
    if missing:
        raise FormatError(f"{found.path} is an artifact without {missing[0]}: pack or fetch it again.")
    return Artifact(found, sha256_of(found.path / MANIFEST))


_TOLD = {"name", "labels", "ranker", "rankers", "params", "documents", "metrics", "threshold", "max_length"} | {
    "parameters",
    "encoder",
    "git_revision",
}


def _check_meta(artifact: Bundle) -> None:
    """Refuse a manifest whose values are not of the kind that `pack` writes: they are shown and reckoned with."""
    meta = artifact.meta
    try:
        text_of(meta, "name"), text_of(meta, "ranker"), strings_of(meta, "rankers"), whole(meta, "labels")
        number(meta, "threshold", 0, 1), object_of(meta, "params")
        for key in ("max_length", "parameters"):
            if meta[key] is not None:
                whole(meta, key, high=2**63 - 1)
        for key in ("git_revision", "data_fingerprint"):
            if meta.get(key) is not None:
                text_of(meta, key)
        whole({"networks": 0, **meta}, "networks")
        for key, check in (("documents", whole), ("metrics", number), ("libraries", text_of)):
            values = object_of({"libraries": {}, **meta}, key)
            for name in values:
                check(values, name)
        for name in (*object_of(meta, "encoder"),) if meta["encoder"] is not None else ():
            if not isinstance(meta["encoder"][name], (int, str, type(None))):
                raise ValueError(f"encoder.{name} is {shown(meta['encoder'][name])}, expected a number or a string")
    except ValueError as error:
        raise FormatError(f"{artifact.path}/{MANIFEST}: {error}; pack or fetch the artifact again.") from None
