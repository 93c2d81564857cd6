"""Drift: a batch of new records against the reference of a model, check by check, and one verdict.

A check fails when its effect is above a threshold and too unlikely to be chance: with thousands of records every
difference is significant, with few every difference is large. One kind of drift moves several statistics at once, so
the verdict counts failed checks, and the thresholds are set so that held-out records of the training's years raise
next to no alarm (docs/drift.md tells how, and how well it works).
"""

from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse, special, stats

from cascadexml.config import DriftSettings
from cascadexml.metrics import Float64, bootstrap_intervals
from cascadexml.metrics.bootstrap import resampled
from cascadexml.monitoring.reference import (
    LABEL_STATISTICS,
    QUALITY,
    SCORE_STATISTICS,
    TEXT_STATISTICS,
    Profile,
    Reference,
)
from cascadexml.monitoring.verdict import Check, Kind, Outcome, Quality, UnseenLabels

MOST_VECTORS = 3000
"""Vectors of either side that the domain classifier sees; more cost time and tell nothing new."""
FOLDS = 5
_LEAST_CELL = 10
_DRAWS_AT_ONCE = 100


class Effect(NamedTuple):
    """How far two samples lie apart, and how likely that is by chance."""

    value: float
    p_value: float


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


def shift(reference: Float64, batch: Float64) -> Effect:
    """Wasserstein distance over the reference's standard deviation, and the p-value of Kolmogorov and Smirnov.

    Where all values of the reference are equal, the deviation of both samples together is taken.
    """
    scale = float(reference.std()) or float(np.concatenate([reference, batch]).std())
    if scale == 0:
        return Effect(0.0, 1.0)
    distance = float(stats.wasserstein_distance(reference, batch)) / scale
    return Effect(distance, float(stats.ks_2samp(reference, batch, method="asymp").pvalue))


def category_distance(reference: pa.ChunkedArray, batch: pa.ChunkedArray) -> Effect:
    """Jensen-Shannon distance (base 2, in [0, 1]) of two samples of strings, and the p-value of the chi-square test.

    For the test alone, values that occur fewer than 10 times in both samples together are taken as one.
    """
    counts = [
        dict(zip(*(part.to_pylist() for part in pc.value_counts(s).flatten()), strict=True)) for s in (reference, batch)
    ]
    values = sorted({*counts[0], *counts[1]})
    table = np.array([[count.get(value, 0) for value in values] for count in counts], dtype=np.float64)
    distance = float(np.sqrt(js_divergence(*(table / table.sum(axis=1, keepdims=True)))))
    rare = table.sum(axis=0) < _LEAST_CELL
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    p_value = float(stats.chi2_contingency(table, correction=False).pvalue) if table.shape[1] > 1 else 1.0
    return Effect(distance, p_value)


def js_divergence(p: Float64, q: Float64) -> Float64:
    """Jensen-Shannon divergence, base 2, in [0, 1], of distributions over the last axis."""
    middle = (p + q) / 2
    nats = special.rel_entr(p, middle).sum(axis=-1) + special.rel_entr(q, middle).sum(axis=-1)
    return np.asarray(nats / (2 * np.log(2)))


def domain_auc(reference: npt.NDArray[np.floating], batch: npt.NDArray[np.floating], seed: int = 0) -> Effect:
    """How well a linear classifier tells (n, d) from (m, d) vectors: cross-validated area under the ROC curve.

    0.5 means not at all. The p-value is that of the Mann-Whitney statistic, whose mean over the folds is about normal.
    With fewer vectors than folds on either side there is no effect to speak of.

    Source: Lopez-Paz and Oquab, 2017, "Revisiting classifier two-sample tests".
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    sides = [
        side if len(side) <= MOST_VECTORS else side[np.sort(rng.choice(len(side), MOST_VECTORS, replace=False))]
        for side in (reference, batch)
    ]
    n, m = map(len, sides)
    if min(n, m) < FOLDS:
        return Effect(0.5, 1.0)
    X = StandardScaler().fit_transform(np.concatenate(sides).astype(np.float32))
    y = np.repeat([0, 1], [n, m])
    areas, variances = [], []
    for fit, held_out in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(X, y):
        classifier = LogisticRegression(C=1e-3, class_weight="balanced", max_iter=200).fit(X[fit], y[fit])
        areas.append(roc_auc_score(y[held_out], classifier.decision_function(X[held_out])))
        ones = int(y[held_out].sum())
        variances.append((held_out.size + 1) / (12 * ones * (held_out.size - ones)))
    area, deviation = float(np.mean(areas)), float(np.sqrt(np.mean(variances) / FOLDS))
    return Effect(area, float(stats.norm.sf((area - 0.5) / deviation)))


def label_distance(Y_train: sparse.csr_matrix, Y: sparse.csr_matrix, null: Float64, seed: int = 0) -> Effect:
    """How much further a batch's label frequencies lie from train's than those of as many training documents do.

    The value is the batch's Jensen-Shannon divergence (base 2) from train, all unseen labels taken as one, less the
    mean of `null`. The p-value is the share of the null that lies at least as far out, the batch counted as one.

    Args:
        Y_train: (N, L).
        Y: (n, V), columns [0, L) being those of train; of more than N / 2 documents a sample is taken.
        null: (S,) from `null_divergences`, of min(n, N / 2) documents.
        seed: of the sample.
    """
    N, L = Y_train.shape
    n = min(Y.shape[0], N // 2)
    if n == 0:
        return Effect(0.0, 1.0)
    if n < Y.shape[0]:
        Y = Y[np.sort(np.random.default_rng(seed).choice(Y.shape[0], n, replace=False))]
    used = np.bincount(np.minimum(Y.indices, L), minlength=L + 1).astype(np.float64)
    total = np.bincount(Y_train.indices, minlength=L).astype(np.float64)
    observed = float(_from_train(used[None, :L], used[L:], total)[0])
    p_value = (1 + int(np.sum(null >= observed))) / (null.size + 1)
    return Effect(observed - float(null.mean()), p_value)


def null_divergences(Y_train: sparse.csr_matrix, n: int, draws: int, seed: int = 0) -> Float64:
    """(draws,) Jensen-Shannon divergences of n random documents of train, each time from the rest of train.

    From the rest, so that labels which no other document has count as unseen, as they would in new documents.

    Args:
        Y_train: (N, L).
        n: at most N / 2 are drawn.
        draws: how often.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    N, L = Y_train.shape
    n = min(n, N // 2)
    total = np.bincount(Y_train.indices, minlength=L).astype(np.float64)
    null = np.empty(draws)
    for start in range(0, draws, _DRAWS_AT_ONCE):
        size = min(_DRAWS_AT_ONCE, draws - start)
        rows = np.concatenate([rng.choice(N, n, replace=False) for _ in range(size)])
        chosen = sparse.csr_matrix((np.ones(rows.size), rows, np.arange(size + 1) * n), shape=(size, N))
        parts = (chosen @ Y_train).toarray()
        rest = total - parts
        new = np.where(rest == 0, parts, 0.0)
        null[start : start + size] = _from_train(parts - new, new.sum(axis=1), rest)
    return null


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


def _from_train(uses: Float64, unseen: Float64, train: Float64) -> Float64:
    """(S,) divergence of S label counts (S, L) and their uses of unseen labels (S,) from train's, (L,) or (S, L)."""
    counts = np.column_stack([uses, unseen])
    known = np.column_stack([np.broadcast_to(train, uses.shape), np.zeros(len(uses))])
    p, q = (each / np.maximum(each.sum(axis=1, keepdims=True), 1.0) for each in (counts, known))
    return js_divergence(p, q)
