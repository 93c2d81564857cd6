"""Champion against challenger on the same records: whether a new model may take the place of the one in use.

Both rank the same held-out documents. The challenger is promoted when two things hold: on one metric it is better by a
margin, with a stated confidence; and no guard falls, a guard being another metric or the same metric on a slice of the
documents. Everything is a ratio of sums over documents (see `metrics.Ratio`), so one paired bootstrap over documents
gives all intervals from the same draws.

Guards can only refuse. Promotion asks for all of them at once, so their number needs no correction for the promise that
matters: a challenger that is no better is promoted with a probability of at most 1 - confidence, however many there are
(an intersection-union test; Berger, 1982, "Multiparameter hypothesis testing and acceptance sampling"). The price is
paid on the other side: each guard more makes it likelier that a better challenger is refused by chance.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from cascadexml.config.metric_names import guard_of
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import ConfigError, DataError
from cascadexml.evaluation.judgement import Comparison, Judgement
from cascadexml.evaluation.report import FAMILIES_SHOWN
from cascadexml.metrics import (
    Bool,
    Float64,
    Ratio,
    Report,
    bin_ratios,
    document_ratios,
    frequency_bins,
    inverse_propensities,
)
from cascadexml.metrics.bootstrap import percentile_interval, resampled
from cascadexml.metrics.ratios import divide, stack
from cascadexml.ranking import NO_LABEL, Ranking

if TYPE_CHECKING:
    from cascadexml.config import EvaluateSettings, JudgeSettings

log = logging.getLogger(__name__)

MOST_VALUES = 1000
"""Values that a slice column may have: one with more, such as a title, names documents rather than kinds of them."""


def translate(ranking: Ranking, source: Vocabulary, target: Vocabulary) -> Ranking:
    """A ranking in the rows of another vocabulary: each label keeps its place and score and is found by its id.

    A label that `target` does not have is true for no document there. Its place holds NO_LABEL and stays taken, which
    every metric at k counts as wrong. A label that only `target` has cannot be in the ranking: it counts as missed.

    Args:
        ranking: (N, K), rows of `source`.
        source: what ranked.
        target: whose rows are wanted.
    """
    # NO_LABEL is -1: it reads the last entry, which stands for itself.
    rows = np.append(target.rows(pa.array(source.ids, pa.string())), np.int32(NO_LABEL))
    return Ranking(rows[ranking.labels], ranking.scores)


def slices_of(metadata: pa.Table, columns: Sequence[str]) -> dict[str, Bool]:
    """Which of N documents have each value of each column: "type=Book" → (N,) bool; documents without: "type=(none)".

    A column that the documents lack is passed over, and logged. A column with one value gives no slice: that would be
    all documents.

    Raises:
        ConfigError: a column holds lists or mappings, or has more than `MOST_VALUES` values.
    """
    found: dict[str, Bool] = {}
    for column in columns:
        if column not in metadata.column_names:
            log.info("judge.slices: the documents have no column %r, so there is no slice by it.", column)
            continue
        if pa.types.is_nested(metadata.schema.field(column).type):
            raise ConfigError(f"judge.slices names {column!r}, which holds lists or mappings: name a column of values.")
        encoded = metadata.column(column).combine_chunks().dictionary_encode(null_encoding="encode")
        values = encoded.dictionary.to_pylist()
        if len(values) > MOST_VALUES:
            raise ConfigError(
                f"judge.slices names {column!r}, which has {len(values):,} values, expected at most {MOST_VALUES:,}: "
                "name a column with few."
            )
        codes = encoded.indices.to_numpy()
        if len(values) > 1:
            names = ["(none)" if value is None else str(value) for value in values]
            found |= {f"{column}={names[code]}": codes == code for code in np.argsort(names)}
    return found


def judge(
    champion: Ranking | None,
    challenger: Ranking,
    Y: sparse.csr_matrix,
    Y_train: sparse.csr_matrix,
    slices: Mapping[str, npt.NDArray[np.bool_]],
    settings: "JudgeSettings",
    evaluate: "EvaluateSettings",
    seed: int,
) -> Judgement:
    """Decide whether the challenger may take the champion's place.

    Promoted when the lower bound of the difference on `settings.metric`, one-sided at `settings.confidence`, lies above
    `settings.margin`, and no guard and no slice falls: none has a difference below -`settings.max_fall`, or a 95 %
    interval wholly below 0. Without a champion the challenger is promoted.

    Args:
        champion: (N, K) labels of N documents, as columns of Y (see `translate`); None where there is none yet.
        challenger: (N, K) of the same documents.
        Y: (N, V) true labels.
        Y_train: (N_train, V) labels of train, for propensities and label frequencies; one measure for both models.
        slices: name → (N,) which documents; those with fewer than `settings.min_slice` are left out.
        settings: the section `judge` of the parameters.
        evaluate: the section `evaluate`: cut-offs shown, resamples, propensities, bins.
        seed: of the draws.

    Raises:
        DataError: there is no document.
        ConfigError: a metric has no such name.
    """
    N = Y.shape[0]
    if N == 0:
        raise DataError("There is no held-out document to judge on: give the source a test split.")
    shown = (f"{family}@{k}" for family in FAMILIES_SHOWN for k in evaluate.ks)
    metrics = list(dict.fromkeys([settings.metric, *settings.guards, *shown]))
    kept = {f"slice {name}": mask for name, mask in slices.items() if mask.sum() >= settings.min_slice}

    def measure(ranking: Ranking) -> dict[str, Ratio]:
        ratios = _ratios(ranking, Y, Y_train, metrics, evaluate)
        of_all = ratios[settings.metric]
        parts = {name: Ratio(of_all.numerator * mask, of_all.denominator * mask) for name, mask in kept.items()}
        return ratios | parts

    counts = {name: int(mask.sum()) for name, mask in kept.items()} | dict.fromkeys(metrics, N)
    ours = measure(challenger)
    if champion is None:
        report = _report(_resample(ours, evaluate.bootstrap_samples, seed), metrics)
        reasons = ("There is no champion yet: the challenger becomes the first.",)
        return Judgement(
            promote=True, reasons=reasons, **_rule(settings), documents=N, champion=None, challenger=report
        )
    pair = _Pair(measure(champion), ours, counts, evaluate.bootstrap_samples, seed)
    left_out = {name: int(mask.sum()) for name, mask in slices.items() if f"slice {name}" not in kept}
    return _decide(pair, metrics, list(kept), settings, N, left_out)


class _Pair:
    """Champion and challenger measured on the same documents and the same draws of them.

    One seed gives the same draws, so pairs stay pairs: two equal rankings differ by exactly 0.
    """

    def __init__(
        self,
        champion: Mapping[str, Ratio],
        challenger: Mapping[str, Ratio],
        counts: Mapping[str, int],
        samples: int,
        seed: int,
    ) -> None:
        both = {name: (our, champion[name]) for name, our in challenger.items()}
        gains = {name: Ratio(a.numerator - b.numerator, a.denominator) for name, (a, b) in both.items()}
        self.champion = _resample(champion, samples, seed)
        self.challenger = _resample(challenger, samples, seed)
        self.gains = _resample(gains, samples, seed)
        self.empty = [name for name, ratio in challenger.items() if not ratio.denominator.any()]
        self.counts = counts

    def compare(self, name: str) -> Comparison:
        gain = self.gains[name]
        low, high = map(float, percentile_interval(gain.draws))
        before, after = self.champion[name].figure, self.challenger[name].figure
        return Comparison(name.removeprefix("slice "), self.counts[name], before, after, gain.figure, low, high)


def _decide(
    pair: _Pair,
    metrics: Sequence[str],
    slices: Sequence[str],
    settings: "JudgeSettings",
    N: int,
    left_out: Mapping[str, int],
) -> Judgement:
    lower = float(np.percentile(pair.gains[settings.metric].draws, 100 * (1 - settings.confidence)))
    main = pair.compare(settings.metric)
    guards = tuple(_checked(pair.compare(name), settings.max_fall) for name in dict.fromkeys(settings.guards))
    parts = tuple(_checked(pair.compare(name), settings.max_fall) for name in slices)
    better = lower > settings.margin
    return Judgement(
        promote=better and not any(each.failed for each in guards + parts),
        reasons=(_main_reason(main, lower, better, settings), *_fall_reasons(guards, parts)),
        **_rule(settings),
        documents=N,
        champion=_report(pair.champion, metrics),
        challenger=_report(pair.challenger, metrics),
        difference=main,
        lower_bound=lower,
        differences=tuple(pair.compare(name) for name in metrics if name != settings.metric),
        guards=guards,
        slices=parts,
        left_out=left_out,
        notes=tuple(
            f"{name} has nothing to measure: no document has a label of that kind."
            for name in metrics
            if name in pair.empty
        ),
    )


def _rule(settings: "JudgeSettings") -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("metric", "margin", "confidence")}


def _ratios(
    ranking: Ranking,
    Y: sparse.csr_matrix,
    Y_train: sparse.csr_matrix,
    names: Iterable[str],
    evaluate: "EvaluateSettings",
) -> dict[str, Ratio]:
    asked = {name: guard_of(name) for name in names}
    weights = inverse_propensities(Y_train, evaluate.propensity_a, evaluate.propensity_b)
    bins = frequency_bins(Y_train, evaluate.torso, evaluate.head)
    ks = sorted({k for _, _, k in asked.values()})
    of_bin: dict[str | None, dict[str, Ratio]] = {None: document_ratios(ranking, Y, ks, weights)}
    for bin_ in {bin_ for bin_, _, _ in asked.values() if bin_ is not None}:
        of_bin[bin_] = bin_ratios(ranking, Y, bins[bin_], ks)
    return {name: of_bin[bin_][f"{family}@{k}"] for name, (bin_, family, k) in asked.items()}


class Measured(NamedTuple):
    """A figure over all documents, and over each draw of them (samples,)."""

    figure: float
    draws: Float64


def _resample(ratios: Mapping[str, Ratio], samples: int, seed: int) -> dict[str, Measured]:
    above, below = stack(ratios)
    draws = resampled(above, samples, seed, below)
    figures = divide(above.sum(axis=0), below.sum(axis=0))
    return {name: Measured(float(figures[i]), draws[:, i]) for i, name in enumerate(ratios)}


def _report(measured: Mapping[str, Measured], names: Iterable[str]) -> Report:
    intervals = {name: percentile_interval(measured[name].draws) for name in names}
    return Report(
        {name: measured[name].figure for name in intervals},
        {name: (float(low), float(high)) for name, (low, high) in intervals.items()},
    )


def _checked(found: Comparison, max_fall: float) -> Comparison:
    """With the reason why it counts as fallen, if it does."""
    causes = []
    if found.difference < -max_fall:
        causes.append(f"more than the {max_fall:g} allowed")
    if found.high < 0:
        causes.append(f"its 95 % interval, {found.low:+.4f} to {found.high:+.4f}, lies wholly below 0")
    return replace(found, why=f"by {-found.difference:.4f}: {', and '.join(causes)}" if causes else None)


def _main_reason(main: Comparison, lower: float, better: bool, settings: "JudgeSettings") -> str:
    return (
        f"{main.name} goes from {main.champion:.4f} to {main.challenger:.4f}, {main.difference:+.4f} "
        f"(95 % interval {main.low:+.4f} to {main.high:+.4f}): its lower bound at {100 * settings.confidence:g} % "
        f"confidence, {lower:+.4f}, {'lies' if better else 'does not lie'} above the margin of {settings.margin:g}."
    )


def _fall_reasons(guards: Sequence[Comparison], slices: Sequence[Comparison]) -> Iterator[str]:
    for kind, checked in (("guard", guards), ("slice", slices)):
        yield from (f"The {kind} {each.name} falls {each.why}." for each in checked if each.failed)
    if not any(each.failed for each in (*guards, *slices)):
        yield f"None of the guards ({len(guards)}) and slices ({len(slices)}) falls."
