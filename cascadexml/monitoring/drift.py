"""Drift: a batch of new records against the reference of a model, check by check, and one verdict.

A check fails when its effect is above a threshold and too unlikely to be chance: with thousands of records every
difference is significant, with few every difference is large. One kind of drift moves several statistics at once, so
the verdict counts failed checks, and the thresholds are set so that held-out records of the training's years raise
next to no alarm (docs/drift.md tells how, and how well it works).
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats

from cascadexml.config import DriftSettings
from cascadexml.metrics import Float64, bootstrap_intervals
from cascadexml.metrics.bootstrap import resampled
from cascadexml.monitoring.effects import (
    Effect,
    category_distance,
    domain_auc,
    label_distance,
    null_divergences,
    shift,
)
from cascadexml.monitoring.profile import LABEL_STATISTICS, QUALITY, SCORE_STATISTICS, Profile
from cascadexml.monitoring.reference import Reference
from cascadexml.monitoring.text_statistics import TEXT_STATISTICS
from cascadexml.monitoring.verdict import Check, Kind, Outcome, Quality, UnseenLabels


def compare(reference: Reference, batch: Profile, settings: DriftSettings, seed: int = 0) -> list[Check]:
    """Every check of a batch that has passed quarantine; equal arguments give equal checks.

    Checks of labels and quality are left out where the batch has no labels, a check of metadata where either side
    lacks the column.

    Args:
        reference: what the model's own artifact carries.
        batch: at least one record, profiled with the same model.
        settings: the thresholds.
        seed: of the folds and draws.
    """
    known, alpha = reference.profile, settings.alpha
    checks = []
    numeric: list[tuple[str, Kind, float]] = [
        *((name, kind, settings.max_text_shift) for name, kind in TEXT_STATISTICS.items()),
        *((name, "score", settings.max_score_shift) for name in SCORE_STATISTICS),
        (LABEL_STATISTICS[0], "label", settings.max_text_shift),
    ]
    for name, kind, threshold in numeric:
        ours, theirs = known.numbers(name), batch.numbers(name)
        if ours is not None and theirs is not None:
            effect = shift(ours, theirs)
            statistic = "Wasserstein distance in standard deviations"
            means = (float(ours.mean()), float(theirs.mean()))
            checks.append(_check(name, kind, statistic, effect, threshold, alpha, *means))
    if known.vectors is not None and batch.vectors is not None:
        effect = domain_auc(known.vectors, batch.vectors, seed)
        checks.append(_check("embedding", "embedding", "AUC of a domain classifier", effect, settings.max_auc, alpha))
    for name in settings.metadata:
        if name in known.table.column_names and name in batch.table.column_names:
            effect = category_distance(known.table.column(name), batch.table.column(name))
            checks.append(
                _check(name, "metadata", "Jensen-Shannon distance", effect, settings.max_metadata_distance, alpha)
            )
    if batch.Y is not None:
        null = _null_of(reference, len(batch), settings.draws, seed)
        effect = label_distance(reference.Y_train, batch.Y, null, seed)
        statistic = "excess Jensen-Shannon divergence over draws of train"
        checks.append(_check("label_distribution", "label", statistic, effect, settings.max_label_excess, alpha))
        checks.append(_unseen_check(known, batch, settings))
        checks += quality_checks(known, batch, settings, seed)
        checks += _fit_check(known, batch, settings)
    return checks


def decide(checks: Sequence[Check], settings: DriftSettings) -> tuple[Outcome, list[str]]:
    """The verdict over all checks, and a sentence for each one that fails.

    A validity check that fails means quarantine; else `min_failed` failed checks mean drift.
    """
    invalid = [str(check) for check in checks if check.failed and check.kind == "validity"]
    if invalid:
        return "quarantined", invalid
    compared = [check for check in checks if check.kind != "validity"]
    failed = [str(check) for check in compared if check.failed]
    counted = f"{len(failed)} of {len(compared)} checks fail, {settings.min_failed} make a drift."
    return ("drift" if len(failed) >= settings.min_failed else "stable"), [counted, *failed]


_NULLS: WeakKeyDictionary[Reference, dict[tuple[int, int, int], Float64]] = WeakKeyDictionary()


def _null_of(reference: Reference, n: int, draws: int, seed: int) -> Float64:
    """The null of a reference, the same for all batches of one size; it is forgotten with the reference."""
    kept = _NULLS.setdefault(reference, {})
    if (n, draws, seed) not in kept:
        kept[n, draws, seed] = null_divergences(reference.Y_train, n, draws, seed)
    return kept[n, draws, seed]


def quality_checks(known: Profile, batch: Profile, settings: DriftSettings, seed: int = 0) -> list[Check]:
    """How far each metric of QUALITY falls below the reference's; p-values from resampling both sides' records."""
    rng = np.random.default_rng(seed)
    checks = []
    for name in QUALITY:
        ours, theirs = known.numbers(name), batch.numbers(name)
        if ours is None or theirs is None:
            continue
        falls = resampled(ours, settings.draws, rng) - resampled(theirs, settings.draws, rng)
        p_value = (1 + int(np.sum(falls <= 0))) / (settings.draws + 1)
        effect = Effect(float(ours.mean() - theirs.mean()), p_value)
        means = (float(ours.mean()), float(theirs.mean()))
        checks.append(_check(name, "quality", "fall", effect, settings.max_quality_fall, settings.alpha, *means))
    return checks


def quality_figures(known: Profile, batch: Profile, draws: int, seed: int = 0) -> dict[str, Quality] | None:
    """Each metric of QUALITY on batch and reference with its bootstrap 95 % interval; None without labels."""
    rng = np.random.default_rng(seed)
    figures = {}
    for name in QUALITY:
        ours, theirs = known.numbers(name), batch.numbers(name)
        if ours is None or theirs is None:
            return None
        low, high = map(float, bootstrap_intervals(theirs, draws, rng))
        reference_low, reference_high = map(float, bootstrap_intervals(ours, draws, rng))
        figures[name] = Quality(float(theirs.mean()), float(ours.mean()), low, high, reference_low, reference_high)
    return figures


def unseen_figures(labels: pa.ListArray, known: npt.NDArray[np.bool_]) -> UnseenLabels:
    """The label uses of a batch that train does not have, with the 50 commonest ids.

    Args:
        labels: n lists of label ids, U uses in all.
        known: (U,) whether train has the label of each use.
    """
    unseen = labels.flatten().filter(pa.array(~known)) if len(known) else pa.array([], pa.string())
    counts = [(-entry["counts"], entry["values"]) for entry in pc.value_counts(unseen).to_pylist()]
    return UnseenLabels(len(unseen) / max(len(known), 1), len(unseen), [label for _, label in sorted(counts)[:50]])


def _check(
    name: str,
    kind: Kind,
    statistic: str,
    effect: Effect,
    threshold: float,
    alpha: float,
    reference: float | None = None,
    batch: float | None = None,
) -> Check:
    failed = effect.value > threshold and effect.p_value < alpha
    return Check(name, kind, statistic, effect.value, threshold, effect.p_value, bool(failed), reference, batch)


def _unseen_check(known: Profile, batch: Profile, settings: DriftSettings) -> Check:
    """Share of unseen label uses above the reference's. Records are the units of Fisher's test: uses go together."""
    shares, tables = [], []
    for profile in (known, batch):
        labels, unseen = (profile.numbers(name) for name in LABEL_STATISTICS)
        if labels is None or unseen is None:
            labels = unseen = np.zeros(0)
        shares.append(float(unseen.sum() / max(labels.sum(), 1)))
        hit = int(np.count_nonzero(unseen))
        tables.append([len(unseen) - hit, hit])
    p_value = float(stats.fisher_exact(np.array(tables), alternative="greater").pvalue)
    effect = Effect(shares[1] - shares[0], p_value)
    statistic = "share of label uses above the reference's"
    return _check("unseen_labels", "label", statistic, effect, settings.max_unseen_excess, settings.alpha, *shares)


def _fit_check(known: Profile, batch: Profile, settings: DriftSettings) -> list[Check]:
    """Whether labels and texts belong together at all; drift lowers quality, mixed-up labels destroy it."""
    ours, theirs = known.numbers(QUALITY[0]), batch.numbers(QUALITY[0])
    if ours is None or theirs is None or not ours.any():
        return []
    share, least = float(theirs.mean() / ours.mean()), settings.min_quality_share
    statistic, means = f"{QUALITY[0]} over the reference's", (float(ours.mean()), float(theirs.mean()))
    return [Check("labels_fit_texts", "validity", statistic, share, least, None, share < least, *means)]
