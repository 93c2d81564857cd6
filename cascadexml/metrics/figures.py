"""All figures of a ranking against the truth, and the differences between two rankings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from cascadexml.errors import ConfigError
from cascadexml.metrics.at_k import document_ratios
from cascadexml.metrics.at_threshold import macro_f1, threshold_ratio
from cascadexml.metrics.bins import bin_ratios, frequency_bins
from cascadexml.metrics.bootstrap import paired_bootstrap, ratio_intervals
from cascadexml.metrics.coverage import catalogue_coverage, coverage
from cascadexml.metrics.propensities import inverse_propensities
from cascadexml.metrics.ratios import Bool, stack
from cascadexml.metrics.report import BinReport, MetricDifference, Report
from cascadexml.ranking import Ranking

if TYPE_CHECKING:
    from cascadexml.config import EvaluateSettings


def evaluate(
    ranking: Ranking,
    Y: sparse.csr_matrix,
    Y_train: sparse.csr_matrix,
    settings: "EvaluateSettings",
    *,
    threshold: float | None = None,
    seed: int = 0,
) -> Report:
    """All figures of one ranker on one split, as fractions.

    Args:
        ranking: (N, K) with K >= max(settings.ks), unless there are fewer labels.
        Y: (N, len(vocabulary)) true labels.
        Y_train: (N_train, len(vocabulary)) labels of train, for propensities and label frequencies.
        settings: the section `evaluate` of the parameters.
        threshold: when given, micro P, R, F1 and macro F1 of labels with at least this score are added.
        seed: of the bootstrap.

    Raises:
        ConfigError: settings.top_k is less than the greatest k.
    """
    if settings.top_k < max(settings.ks):
        raise ConfigError(
            f"evaluate.top_k is {settings.top_k}, less than the greatest of evaluate.ks ({max(settings.ks)}): raise it."
        )
    ks, samples = sorted(set(settings.ks)), settings.bootstrap_samples
    weights = inverse_propensities(Y_train, settings.propensity_a, settings.propensity_b)
    bins = frequency_bins(Y_train, settings.torso, settings.head)
    ratios = document_ratios(ranking, Y, ks, weights)
    if threshold is not None:
        ratios |= threshold_ratio(ranking, Y, threshold)
    figures = {name: ratio.figure for name, ratio in ratios.items()}
    figures |= coverage(ranking, Y, np.ones(Y.shape[1], dtype=np.bool_), ks)
    figures |= catalogue_coverage(ranking, ~bins["unseen"], ks)
    if threshold is not None:
        figures["macro_F1"] = macro_f1(ranking, Y, threshold)
    return Report(
        figures,
        ratio_intervals(ratios, samples, seed),
        {name: _bin_report(ranking, Y, mask, ks, samples, seed) for name, mask in bins.items()},
    )


def differences(
    ranking: Ranking,
    other: Ranking,
    Y: sparse.csr_matrix,
    Y_train: sparse.csr_matrix,
    settings: "EvaluateSettings",
    *,
    seed: int = 0,
) -> dict[str, MetricDifference]:
    """What `ranking` has over `other` on the same documents, by metric at k, such as "P@1"; see `paired_bootstrap`.

    Other arguments as of `evaluate`.
    """
    weights = inverse_propensities(Y_train, settings.propensity_a, settings.propensity_b)
    ours, theirs = (document_ratios(each, Y, settings.ks, weights) for each in (ranking, other))
    above, below = stack(ours)
    found = paired_bootstrap(above, stack(theirs).numerator, settings.bootstrap_samples, seed, below)
    return {name: MetricDifference(*(float(values[i]) for values in found)) for i, name in enumerate(ours)}


def _bin_report(
    ranking: Ranking, Y: sparse.csr_matrix, mask: Bool, ks: Sequence[int], samples: int, seed: int
) -> BinReport:
    uses = np.bincount(Y.indices, minlength=Y.shape[1])[mask]
    labels, labels_true, pairs = int(mask.sum()), int((uses > 0).sum()), int(uses.sum())
    if not pairs:
        return BinReport(labels, labels_true, pairs)
    ratios = bin_ratios(ranking, Y, mask, ks)
    figures = {name: ratio.figure for name, ratio in ratios.items()} | coverage(ranking, Y, mask, ks)
    return BinReport(labels, labels_true, pairs, figures, ratio_intervals(ratios, samples, seed))
