"""Figures of a ranking against the truth: at k, propensity-scored, by label frequency, with bootstrap intervals.

Definitions follow the Extreme Classification Repository (Bhatia et al., 2016) and its reference code pyxclib, so
that figures compare with published ones. Every per-document figure is kept as a ratio of two per-document arrays:
the figure of a split is sum(numerator) / sum(denominator). For plain metrics the denominator is 1, which makes it the
mean over documents; for propensity-scored ones it is the gain of the best possible ranking.
"""

from cascadexml.metrics.at_k import document_metrics, document_ratios, hit_matrix
from cascadexml.metrics.at_threshold import macro_f1, threshold_ratio
from cascadexml.metrics.bins import bin_ratios, bins_by_uses, frequency_bins
from cascadexml.metrics.bootstrap import Difference, bootstrap_intervals, paired_bootstrap
from cascadexml.metrics.coverage import catalogue_coverage, coverage
from cascadexml.metrics.figures import differences, evaluate
from cascadexml.metrics.propensities import inverse_propensities
from cascadexml.metrics.ratios import Bool, Float64, Ratio
from cascadexml.metrics.report import BinReport, MetricDifference, Report

__all__ = [
    "BinReport",
    "Bool",
    "Difference",
    "Float64",
    "MetricDifference",
    "Ratio",
    "Report",
    "bin_ratios",
    "bins_by_uses",
    "bootstrap_intervals",
    "catalogue_coverage",
    "coverage",
    "differences",
    "document_metrics",
    "document_ratios",
    "evaluate",
    "frequency_bins",
    "hit_matrix",
    "inverse_propensities",
    "macro_f1",
    "paired_bootstrap",
    "threshold_ratio",
]
