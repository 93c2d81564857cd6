"""A batch against the reference in a model's artifact: validated, profiled, compared, and given its verdict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cascadexml.artifact.artifact import Artifact
from cascadexml.config import DriftSettings
from cascadexml.data.labelled import label_matrix
from cascadexml.errors import DataError, FormatError
from cascadexml.evaluation.held_out import see
from cascadexml.monitoring.batch import Batch
from cascadexml.monitoring.drift import compare, decide, quality_figures, unseen_figures
from cascadexml.monitoring.profile import K, Profile, make_profile, metadata_columns
from cascadexml.monitoring.quarantine import known_uses, validate_batch
from cascadexml.monitoring.reference import Reference
from cascadexml.monitoring.verdict import MonitoredModel, Verdict
from cascadexml.progress import Progress, silent
from cascadexml.quality.rules import COLUMNS
from cascadexml.rankers.base import Documents


@dataclass(frozen=True)
class BatchComparison:
    """What is known of a batch in the end.

    Attributes:
        verdict: on the batch.
        reference: the profile that the batch was compared with.
        profile: the batch's own; None where quarantine came before.
    """

    verdict: Verdict
    reference: Profile
    profile: Profile | None


def compare_batch(
    batch: Batch,
    artifact: Artifact,
    settings: DriftSettings,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = silent,
) -> BatchComparison:
    """Compare a batch with the reference in an artifact, and give the verdict.

    A batch that is not fit to be compared is quarantined before the model sees it.

    Args:
        batch: the batch.
        artifact: of the model that is to be monitored.
        settings: thresholds and bounds.
        seed: of folds and draws.
        device: as of `pick_device`.
        progress: called with (what, records done, n, {}).

    Raises:
        DataError: the artifact has no reference.
        FormatError: its reference is damaged, or of another model.
        PredictionError: out of memory.
    """
    vocabulary = artifact.vocabulary()
    reference = _reference_of(artifact, vocabulary.L)
    checks, profile, quality = validate_batch(batch, reference, vocabulary, settings), None, None
    if not any(check.failed for check in checks):
        profile = profile_records(
            batch.accepted,
            artifact,
            reference.words,
            settings.metadata,
            has_labels=batch.has_labels,
            device=device,
            progress=progress,
        )
        checks += compare(reference, profile, settings, seed)
        quality = quality_figures(reference.profile, profile, settings.draws, seed)
    outcome, reasons = decide(checks, settings)
    if batch.wrong_columns is not None:
        reasons = [batch.wrong_columns]
    elif not batch.has_labels and batch.records:
        reasons.append(
            "No record has labels: the checks of labels and quality are left out, and nothing can be learnt."
        )
    verdict = Verdict(
        outcome,
        reasons,
        batch.summary(),
        MonitoredModel(artifact.meta["name"], artifact.fingerprint),
        checks,
        quality,
        unseen_figures(_lists(batch.accepted), known_uses(batch.accepted, vocabulary)),
    ).rounded()
    return BatchComparison(verdict, reference.profile, profile)


def _reference_of(artifact: Artifact, L: int) -> Reference:
    """The reference that an artifact carries; refused where it is not the one of its model, which ranks L labels."""
    if artifact.reference is None:
        raise DataError(
            f"{artifact.path} carries no reference to compare with: pack it again after dvc repro reference."
        )
    reference = Reference.load(artifact.reference)
    if reference.meta["model"] not in (None, artifact.measured_ranker) or reference.meta["labels"] != L:
        raise FormatError(f"{artifact.reference.path} is the reference of another model: pack the artifact again.")
    return reference


def profile_records(
    records: pa.Table,
    artifact: Artifact,
    words: npt.NDArray[np.uint64],
    metadata: Sequence[str] = (),
    *,
    has_labels: bool = True,
    device: str = "auto",
    progress: Progress = silent,
) -> Profile:
    """Profile RawRecords that have passed the row rules with the model of an artifact.

    Args:
        records: N records.
        artifact: the model.
        words: sorted hashes of the words of train, as the reference keeps them.
        metadata: columns to keep; those that the records lack are passed over.
        has_labels: False leaves labels and quality out.
        device: as of `pick_device`.
        progress: called with (what, records done, N, {}).

    Raises:
        PredictionError: out of memory, or `device` is not there.
    """
    vocabulary, texts = artifact.vocabulary(), records.column("text").to_pylist()
    seen = see(artifact.ranker(device), Documents(texts), K, progress)
    return make_profile(
        texts,
        artifact.calibration().calibrated(seen.ranking),
        seen.vectors,
        words,
        label_matrix(_lists(records), vocabulary) if has_labels else None,
        vocabulary.L,
        metadata_columns(records, metadata),
    )


def _lists(records: pa.Table) -> pa.ListArray:
    """The labels of all records in one array."""
    return pa.array(records.column("labels").to_pylist(), COLUMNS["labels"])
