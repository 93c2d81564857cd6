"""Quarantine: whether a batch is fit to be compared and learnt from, told before a model sees it."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cascadexml.config import DriftSettings
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.monitoring.batch import Batch
from cascadexml.monitoring.reference import Reference
from cascadexml.monitoring.verdict import Check
from cascadexml.quality.rules import damaged, repeats, trimmed


def validate_batch(batch: Batch, reference: Reference, vocabulary: Vocabulary, settings: DriftSettings) -> list[Check]:
    """Make the checks that need no model; one that fails means that the batch is quarantined.

    Args:
        batch: the batch.
        reference: of the model.
        vocabulary: of the model.
        settings: the knobs of quarantine.
    """
    accepted, n = batch.accepted, batch.accepted.num_rows
    if batch.wrong_columns is not None:
        return [Check(batch.wrong_columns, "validity", "files with the wrong columns", 1.0, 0.0, None, True)]

    def check(name: str, statistic: str, value: float, most: float) -> Check:
        return Check(name, "validity", statistic, value, most, None, value > most)

    refused = batch.records - n
    few = Check(
        "records", "validity", "accepted records", float(n), settings.min_records, None, n < settings.min_records
    )
    checks = [few, check("refused", "share of records", refused / max(batch.records, 1), settings.max_refused_share)]
    if not n:
        return checks
    text = trimmed(accepted.column("text"))
    usual = float(np.median(reference.profile.numbers("characters")))  # type: ignore[arg-type]
    length = float(np.median(np.asarray(pc.utf8_length(accepted.column("text")))))
    ratio = max(length / max(usual, 1.0), usual / max(length, 1.0))
    checks += [
        check("repeated", "share of texts", float(repeats(text).mean()), settings.max_duplicate_share),
        check("damaged", "share of texts", float(damaged(text).mean()), settings.max_damaged_share),
        replace(
            check("length", "ratio of median characters", ratio, settings.max_length_ratio),
            reference=usual,
            batch=length,
        ),
    ]
    if batch.has_labels:
        known = known_uses(accepted, vocabulary)
        share = 1 - float(known.mean()) if known.size else 0.0
        checks.append(check("unknown_labels", "share of label uses", share, settings.max_unseen_share))
    return checks


def known_uses(accepted: pa.Table, vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    """(U,) whether train has the label of each of the U label uses of the accepted records."""
    rows = vocabulary.rows(pc.list_flatten(accepted.column("labels")))
    return (rows >= 0) & (rows < vocabulary.L)
