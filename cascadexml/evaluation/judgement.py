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

import html
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse

from cascadexml.config.metric_names import guard_of
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.errors import ConfigError, DataError
from cascadexml.metrics import (
    Bool,
    Float64,
    Ratio,
    bin_ratios,
    document_ratios,
    frequency_bins,
    inverse_propensities,
    resampled,
)
from cascadexml.ranking import NO_LABEL, Ranking

if TYPE_CHECKING:
    from cascadexml.config import EvaluateSettings, JudgeSettings

log = logging.getLogger(__name__)

MOST_VALUES = 1000
"""Values that a slice column may have: one with more, such as a title, names documents rather than kinds of them."""


@dataclass(frozen=True)
class Comparison:
    """One figure of both models on the same documents, and whether it counts as fallen.

    Attributes:
        name: of the metric, or of the slice.
        documents: how many documents it is over; those that do not bear on it, such as ones without tail labels, count.
        champion: figure.
        challenger: figure.
        difference: challenger minus champion.
        low: of the 95 % interval of the difference.
        high: of it.
        why: how it fell, as the end of "it falls …"; None where it did not.
    """

    name: str
    documents: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    why: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it fell."""
        return self.why is not None


@dataclass(frozen=True)
class Judgement:
    """The decision, why, and all that it rests on.

    Attributes:
        promote: the decision.
        reasons: sentences, the first on the metric that decides.
        metric: what the challenger must be better on.
        margin: by how much.
        confidence: how surely, one-sided.
        documents: how many both ranked.
        champion: {"figures": {name: value}, "intervals": {name: [low, high]}}, 95 %; None without a champion.
        challenger: likewise.
        difference: on `metric`; None without a champion.
        lower_bound: what the difference on `metric` exceeds with `confidence`; None without a champion.
        differences: of all other figures of both.
        guards: metrics that may not fall.
        slices: `metric` on parts of the documents, where it may not fall.
        left_out: slices with too few documents: name → documents.
        notes: what a reader must know besides.
    """

    promote: bool
    reasons: tuple[str, ...]
    metric: str
    margin: float
    confidence: float
    documents: int
    champion: Mapping[str, Any] | None
    challenger: Mapping[str, Any]
    difference: Comparison | None = None
    lower_bound: float | None = None
    differences: tuple[Comparison, ...] = ()
    guards: tuple[Comparison, ...] = ()
    slices: tuple[Comparison, ...] = ()
    left_out: Mapping[str, int] | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The same as plain values; figures and differences are fractions."""

        def plain(found: Comparison) -> dict[str, Any]:
            names = ("name", "documents", "champion", "challenger", "difference", "low", "high", "failed", "why")
            return {name: getattr(found, name) for name in names}

        return {
            "promote": self.promote,
            "reasons": list(self.reasons),
            "metric": self.metric,
            "margin": self.margin,
            "confidence": self.confidence,
            "documents": self.documents,
            "champion": self.champion,
            "challenger": self.challenger,
            "difference": self.difference and {**plain(self.difference), "lower_bound": self.lower_bound},
            "differences": [plain(each) for each in self.differences],
            "guards": [plain(each) for each in self.guards],
            "slices": [plain(each) for each in self.slices],
            "left_out": dict(self.left_out or {}),
            "notes": list(self.notes),
        }


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
    shown = [f"{family}@{k}" for family in ("P", "R", "nDCG", "PSP") for k in evaluate.ks]
    metrics = list(dict.fromkeys([settings.metric, *settings.guards, *shown]))
    kept = {f"slice {name}": mask for name, mask in slices.items() if mask.sum() >= settings.min_slice}

    def measure(ranking: Ranking) -> dict[str, Ratio]:
        ratios = _ratios(ranking, Y, Y_train, metrics, evaluate)
        of_all = ratios[settings.metric]
        parts = {name: Ratio(of_all.numerator * mask, of_all.denominator * mask) for name, mask in kept.items()}
        return ratios | parts

    samples = evaluate.bootstrap_samples
    ours = measure(challenger)
    our_figures = _resample(ours, samples, seed)
    if champion is None:
        return Judgement(
            promote=True,
            reasons=("There is no champion yet: the challenger becomes the first.",),
            metric=settings.metric,
            margin=settings.margin,
            confidence=settings.confidence,
            documents=N,
            champion=None,
            challenger=_report(our_figures, metrics),
        )
    theirs = measure(champion)
    their_figures = _resample(theirs, samples, seed)
    # One seed, so the same draws: pairs stay pairs. Two equal rankings differ by exactly 0.
    gains = {name: Ratio(our.numerator - theirs[name].numerator, our.denominator) for name, our in ours.items()}
    gain_figures = _resample(gains, samples, seed)

    def compare(name: str) -> Comparison:
        gain, draws = gain_figures[name]
        low, high = np.percentile(draws, [2.5, 97.5])
        count = int(kept[name].sum()) if name in kept else N
        shown = name.removeprefix("slice ")
        return Comparison(shown, count, their_figures[name][0], our_figures[name][0], gain, float(low), float(high))

    main = compare(settings.metric)
    lower = float(np.percentile(gain_figures[settings.metric][1], 100 * (1 - settings.confidence)))
    guards = tuple(_checked(compare(name), settings.max_fall) for name in dict.fromkeys(settings.guards))
    parts = tuple(_checked(compare(name), settings.max_fall) for name in kept)
    better = lower > settings.margin
    return Judgement(
        promote=better and not any(each.failed for each in guards + parts),
        reasons=(_verdict_on(main, lower, better, settings), *_verdicts(guards, parts)),
        metric=settings.metric,
        margin=settings.margin,
        confidence=settings.confidence,
        documents=N,
        champion=_report(their_figures, metrics),
        challenger=_report(our_figures, metrics),
        difference=main,
        lower_bound=lower,
        differences=tuple(compare(name) for name in metrics if name != settings.metric),
        guards=guards,
        slices=parts,
        left_out={name: int(mask.sum()) for name, mask in slices.items() if f"slice {name}" not in kept},
        notes=tuple(
            f"{name} has nothing to measure: no document has a label of that kind."
            for name in metrics
            if not ours[name].denominator.any()
        ),
    )


def render(judgement: Judgement) -> str:
    """The judgement in Markdown: the decision with its reasons, then tables of what they rest on, in percent."""
    parts = [
        f"**{'Promoted' if judgement.promote else 'Not promoted'}**, on {judgement.documents:,} held-out documents.",
        "\n".join(f"- {_escaped(reason)}" for reason in judgement.reasons),
    ]
    if judgement.difference is not None:
        figures = (judgement.difference, *judgement.differences)
        parts += ["## Guards", _table("metric", judgement.guards)] if judgement.guards else []
        parts += [f"## {judgement.metric} by slice", _table("slice", judgement.slices)] if judgement.slices else []
        parts += ["## All figures", _table("metric", figures)]
    else:
        rows = [[name, _percent(value)] for name, value in judgement.challenger["figures"].items()]
        parts += ["## Figures", _rows(["metric", "challenger"], rows)]
    if judgement.left_out:
        few = ", ".join(f"{_escaped(name)} ({count:,})" for name, count in sorted(judgement.left_out.items())[:20])
        more = f" and {len(judgement.left_out) - 20:,} more" if len(judgement.left_out) > 20 else ""
        parts.append(f"Slices with too few documents to guard: {few}{more}.")
    parts += [_escaped(note) for note in judgement.notes]
    return "\n\n".join(parts) + "\n"


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


def _resample(ratios: Mapping[str, Ratio], samples: int, seed: int) -> dict[str, tuple[float, Float64]]:
    """Each ratio's figure over all documents, and over `samples` draws of them (samples,)."""
    above = np.stack([ratio.numerator for ratio in ratios.values()], axis=1)
    below = np.stack([ratio.denominator for ratio in ratios.values()], axis=1)
    draws = resampled(above, samples, seed, below)
    totals = below.sum(axis=0)
    figures = np.divide(above.sum(axis=0), totals, out=np.zeros_like(totals), where=totals != 0)
    return {name: (float(figures[i]), draws[:, i]) for i, name in enumerate(ratios)}


def _report(figures: Mapping[str, tuple[float, Float64]], names: Iterable[str]) -> dict[str, Any]:
    intervals = {name: np.percentile(figures[name][1], [2.5, 97.5]).tolist() for name in names}
    return {"figures": {name: figures[name][0] for name in intervals}, "intervals": intervals}


def _checked(found: Comparison, max_fall: float) -> Comparison:
    """With the reason why it counts as fallen, if it does."""
    causes = []
    if found.difference < -max_fall:
        causes.append(f"more than the {max_fall:g} allowed")
    if found.high < 0:
        causes.append(f"its 95 % interval, {found.low:+.4f} to {found.high:+.4f}, lies wholly below 0")
    return replace(found, why=f"by {-found.difference:.4f}: {', and '.join(causes)}" if causes else None)


def _verdict_on(main: Comparison, lower: float, better: bool, settings: "JudgeSettings") -> str:
    return (
        f"{main.name} goes from {main.champion:.4f} to {main.challenger:.4f}, {main.difference:+.4f} "
        f"(95 % interval {main.low:+.4f} to {main.high:+.4f}): its lower bound at {100 * settings.confidence:g} % "
        f"confidence, {lower:+.4f}, {'lies' if better else 'does not lie'} above the margin of {settings.margin:g}."
    )


def _verdicts(guards: Sequence[Comparison], slices: Sequence[Comparison]) -> Iterator[str]:
    for kind, checked in (("guard", guards), ("slice", slices)):
        yield from (f"The {kind} {each.name} falls {each.why}." for each in checked if each.failed)
    if not any(each.failed for each in (*guards, *slices)):
        yield f"None of the guards ({len(guards)}) and slices ({len(slices)}) falls."


def _table(what: str, comparisons: Sequence[Comparison]) -> str:
    head = [what, "documents", "champion", "challenger", "difference (95 % interval)", ""]
    rows = (
        [
            _escaped(each.name),
            f"{each.documents:,}",
            _percent(each.champion),
            _percent(each.challenger),
            f"{100 * each.difference:+.2f} ({100 * each.low:+.2f} to {100 * each.high:+.2f})",
            "falls" if each.failed else "",
        ]
        for each in comparisons
    )
    return _rows(head, rows)


def _rows(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _escaped(text: str) -> str:
    """Text out of the data that neither breaks a table nor becomes HTML or a link."""
    return re.sub(r"([\\|\[\]`*_])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
