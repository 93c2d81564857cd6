"""The comparison: figures of every ranker on the same records, ours minus each peer's, and what each one cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.peers.base import Clock
from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.evaluation.report import HEADLINES
from cascadexml.metrics import MetricDifference, Report, differences, evaluate
from cascadexml.ranking import Ranking

BAND_METRIC = "R@5"
KS = (1, 3, 5, 20)
"""Of the headlines."""
UNKNOWN = "-"


@dataclass(frozen=True)
class Entry:
    """A ranker as the table shows it.

    Attributes:
        caption: what the table calls it.
        rankings: split → its ranking; with test.
        training: None where it is not known.
        ranking: the time for test from its texts on; None where it is not known.
        machine, measured: where and when these times were taken; empty without them.
    """

    caption: str
    rankings: Mapping[str, Ranking]
    training: Clock | None = None
    ranking: Clock | None = None
    machine: str = ""
    measured: str = ""


@dataclass(frozen=True)
class Row:
    """An entry and its figures.

    Attributes:
        entry: whose.
        reports: split → figures.
        behind: metric → ours minus this one on test; empty for ours.
        documents: of test.
    """

    entry: Entry
    reports: Mapping[str, Report]
    behind: Mapping[str, MetricDifference]
    documents: int

    @property
    def texts_per_second(self) -> float | None:
        """Documents of test a second."""
        clock = self.entry.ranking
        return None if clock is None or not clock.seconds else self.documents / clock.seconds


def compare(entries: Sequence[Entry], corpus: Corpus, settings: Settings) -> list[Row]:
    """Measure all entries; the first of them is ours."""
    chosen, Y_train = replace(settings.evaluate, ks=KS), corpus.splits["train"].Y
    test, ours = corpus.splits["test"], entries[0]
    rows = []
    for entry in entries:
        reports = {
            name: evaluate(ranking, corpus.splits[name].Y, Y_train, chosen, seed=settings.seed)
            for name, ranking in entry.rankings.items()
        }
        behind = {}
        if entry is not ours:
            pair = (ours.rankings["test"], entry.rankings["test"])
            behind = differences(*pair, test.Y, Y_train, chosen, seed=settings.seed)
        rows.append(Row(entry, reports, behind, len(test)))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """A column a ranker; percent, and in brackets ours minus this one with its interval."""
    lines = [["test", *(row.entry.caption for row in rows)], ["---"] + ["---:"] * len(rows)]
    lines += [[name, *(_figure(row, name) for row in rows)] for name in HEADLINES]
    bands = rows[0].reports["test"].bins
    lines += [[f"{BAND_METRIC}, {band}", *(_of_band(row, band) for row in rows)] for band in bands]
    lines.append(["training, s (CPU s)", *(_training(row) for row in rows)])
    lines.append(["texts a second", *(_number(row.texts_per_second) for row in rows)])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    places = sorted({f"{row.entry.machine}, {row.entry.measured}" for row in rows if row.entry.machine})
    return f"{table}\n\nPercent; in brackets {rows[0].entry.caption} minus this ranker, 95 % interval. " + (
        f"Times: {'; '.join(places)}." if places else ""
    )


def json_lines(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """One object a ranker: as fractions."""
    for row in rows:
        entry = row.entry
        yield {
            "ranker": entry.caption,
            "documents": row.documents,
            "figures": {split: _headlines(report.figures) for split, report in row.reports.items()},
            "intervals": {split: _headlines(report.intervals) for split, report in row.reports.items()},
            f"{BAND_METRIC} by band": {
                split: {band: each.figures.get(BAND_METRIC) for band, each in report.bins.items()}
                for split, report in row.reports.items()
            },
            "ours minus this": {name: found.to_json() for name, found in _headlines(row.behind).items()},
            "train_seconds": entry.training and entry.training.seconds,
            "train_cpu_seconds": entry.training and entry.training.cpu_seconds,
            "texts_per_second": row.texts_per_second,
            "machine": entry.machine,
            "measured": entry.measured,
        }


def _headlines(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in HEADLINES if name in values}


def _figure(row: Row, name: str) -> str:
    shown = f"{100 * row.reports['test'].figures[name]:.2f}"
    if name not in row.behind:
        return shown
    found = row.behind[name]
    return f"{shown} ({100 * found.difference:+.2f}: {100 * found.low:.1f} to {100 * found.high:.1f})"


def _of_band(row: Row, band: str) -> str:
    found = row.reports["test"].bins[band].figures.get(BAND_METRIC)
    return UNKNOWN if found is None else f"{100 * found:.2f}"


def _training(row: Row) -> str:
    clock = row.entry.training
    return UNKNOWN if clock is None else f"{clock.seconds:,.0f} ({clock.cpu_seconds:,.0f})"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"
