"""The evaluation as pictures: CSV tables that `dvc plots` draws and compares, and PNGs of the same figures."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from scipy import sparse

from cascadexml.evaluation.calibration import Calibration, Reliability, reliability, suggestions
from cascadexml.evaluation.choices import BANDS, PRECISIONS, Choices, band_of
from cascadexml.evaluation.report import EvaluationReport, caption
from cascadexml.metrics import Bool, Float64, Report
from cascadexml.ranking import NO_LABEL, Ranking

# Okabe and Ito (2008): told apart by readers with any colour vision.
_COLOURS = ("#0072b2", "#e69f00", "#999999", "#009e73", "#cc79a7", "#56b4e9")
_INK = "#333333"

# Wanted precisions whose thresholds are marked: all of them would hide each other.
_MARKED = (0.5, 0.7, 0.9)

# What `cascadexml.training` records, by panel.
_PANELS = {
    "loss by resolution": "loss/",
    "precision on dev": "dev/P@",
    "nDCG on dev": "dev/nDCG@",
    "learning rate": "rate/(?!beta)",
    "documents per second": "speed/",
    "peak memory, GiB": "memory/",
}


def draw_evaluation(
    found: EvaluationReport,
    ranking: Ranking,
    calibration: Calibration,
    Y: sparse.csr_matrix,
    uses: npt.NDArray[np.int64],
    ks: Sequence[int],
    training: Path,
    folder: Path,
) -> None:
    """Write every table and picture of an evaluation into `folder`.

    Args:
        found: on test.
        ranking: (N, K) of the model on test, with scores before calibration.
        calibration: of the model.
        Y: (N, len(vocabulary)) true labels of test.
        uses: (len(vocabulary),) documents of train that have each label.
        ks: the cut-offs.
        training: DVCLive's folder; without curves in it none are drawn.
        folder: must be there.
    """
    ks = sorted(ks)
    k = suggestions_shown(ks)
    looked_at = f"the first {k} suggestions" if k > 1 else "the first suggestion"
    raw, hits = suggestions(ranking, Y, k)
    calibrated, _ = suggestions(calibration.calibrated(ranking), Y, k)
    precision_at_k(found.rankers, ks, folder)
    recall_by_frequency(found.rankers, k, folder)
    reliability_curve(reliability(raw, hits), reliability(calibrated, hits), looked_at, folder)
    score_distribution(calibrated, hits, calibration.threshold, looked_at, folder)
    if calibration.choices is not None:
        labels = ranking.labels[:, :k][ranking.labels[:, :k] != NO_LABEL]
        abstention_curve(calibrated, hits, uses[labels], calibration.choices, looked_at, folder)
    training_curves(training, folder / "training.png")


def suggestions_shown(ks: Sequence[int]) -> int:
    """The cut-off that stands for what a user is shown: of `ks` the nearest to 5."""
    return min(ks, key=lambda k: abs(k - 5))


def write_table(path: Path, columns: Mapping[str, Iterable[Any]]) -> None:
    """Write columns of one length as CSV with a header; numbers with six significant digits."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row)


def precision_at_k(reports: Mapping[str, Report], ks: Sequence[int], folder: Path) -> None:
    """P@k of each ranker: baselines.csv (k, one column a ranker) and precision_at_k.png with 95 % intervals.

    Args:
        reports: by ranker; the model first.
        ks: the cut-offs, rising.
        folder: where both files go.
    """
    names = [f"P@{k}" for k in ks]
    values = {ranker: [report.figures[name] for name in names] for ranker, report in reports.items()}
    write_table(folder / "baselines.csv", {"k": ks, **values})
    intervals = {ranker: [report.intervals[name] for name in names] for ranker, report in reports.items()}
    figure, axes = _figure("Precision at k on test")
    _grouped_bars(axes, names, values, intervals)
    axes.set_ylabel("precision, with 95 % intervals")
    _save(figure, folder / "precision_at_k.png")


def recall_by_frequency(reports: Mapping[str, Report], k: int, folder: Path) -> None:
    """R@k on each bin of label frequency: bins.csv (bin, one column a ranker) and recall_by_frequency.png.

    Bins without a true label on test are left out. Arguments as of `precision_at_k`.
    """
    first = next(iter(reports.values())).bins
    bins = [name for name, report in first.items() if report.pairs]
    name = f"R@{k}"
    values = {ranker: [report.bins[b].figures[name] for b in bins] for ranker, report in reports.items()}
    write_table(folder / "bins.csv", {"bin": bins, **values})
    intervals = {ranker: [report.bins[b].intervals[name] for b in bins] for ranker, report in reports.items()}
    figure, axes = _figure(f"Recall at {k} on test, by how often a label occurs in train")
    captions = [f"{b}\n{first[b].labels_true:,} labels\n{first[b].pairs:,} uses" for b in bins]
    _grouped_bars(axes, captions, values, intervals)
    axes.set_ylabel(f"share of true labels in the top {k}")
    _save(figure, folder / "recall_by_frequency.png")


def reliability_curve(raw: Reliability, calibrated: Reliability, what: str, folder: Path) -> None:
    """Share right against score and probability: reliability.csv (filled bins of `calibrated`), reliability.png."""
    filled = calibrated.size > 0
    write_table(
        folder / "reliability.csv",
        {
            "probability": calibrated.probability[filled].tolist(),
            "right": calibrated.right[filled].tolist(),
            "ideal": calibrated.probability[filled].tolist(),
            "size": calibrated.size[filled].tolist(),
        },
    )
    figure = Figure(figsize=(6, 6.4), dpi=120, layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    axes.set_title(f"Reliability on test: {what}", loc="left", color=_INK)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linestyle="--", linewidth=1, label="ideal")
    for table, label, colour, marker in (
        (raw, "score", _COLOURS[1], "s"),
        (calibrated, "probability", _COLOURS[0], "o"),
    ):
        kept = table.size > 0
        axes.plot(table.probability[kept], table.right[kept], color=colour, marker=marker, label=label, clip_on=False)
    edges = np.linspace(0, 1, calibrated.size.size + 1)
    counts.bar(edges[:-1], calibrated.size, np.diff(edges), align="edge", color=_COLOURS[0], edgecolor="white")
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
    counts.set(xlabel="score before, probability after calibration", ylabel="suggestions")
    counts.set_yscale("log")
    counts.yaxis.set_minor_formatter(NullFormatter())
    counts.set_ylim(bottom=0.5)
    axes.legend(frameon=False)
    for each in (axes, counts):
        _plain(each)
    _save(figure, folder / "reliability.png")


def score_distribution(probabilities: Float64, hits: Bool, threshold: float, what: str, folder: Path) -> None:
    """Right and wrong suggestions by probability: scores.csv (probability, right, wrong) and scores.png."""
    edges = np.linspace(0, 1, 21)
    right, _ = np.histogram(probabilities[hits], edges)
    wrong, _ = np.histogram(probabilities[~hits], edges)
    middles = ((edges[:-1] + edges[1:]) / 2).round(3)
    write_table(
        folder / "scores.csv", {"probability": middles.tolist(), "right": right.tolist(), "wrong": wrong.tolist()}
    )
    figure, axes = _figure(f"Probabilities on test: {what}")
    axes.bar(edges[:-1], right, np.diff(edges), align="edge", color=_COLOURS[0], edgecolor="white", label="right")
    axes.bar(
        edges[:-1], wrong, np.diff(edges), right, align="edge", color=_COLOURS[1], edgecolor="white", label="wrong"
    )
    axes.axvline(threshold, color=_INK, linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}")
    axes.set(xlim=(0, 1), xlabel="probability", ylabel="suggestions")
    axes.legend(frameon=False)
    _save(figure, folder / "scores.png")


def abstention_curve(
    probabilities: Float64, hits: Bool, uses: npt.NDArray[np.int64], choices: Choices, what: str, folder: Path
) -> None:
    """Precision against the share of suggestions that is kept: abstention.csv and abstention.png.

    Args:
        probabilities: (M,) of suggestions on test.
        hits: (M,) whether each is right.
        uses: (M,) documents of train that have its label.
        choices: whose thresholds for wanted precisions are marked on the curves.
        what: the suggestions, in words.
        folder: where both files go.
    """
    band = band_of(uses, choices.torso, choices.head)
    parts = {"all": np.ones(hits.size, dtype=bool), **{name: band == i for i, name in enumerate(BANDS)}}
    parts = {name: mine for name, mine in parts.items() if mine.any()}
    shares = np.arange(1, 51) / 50
    figure, axes = _figure(f"Precision of the suggestions kept, on test: {what}")
    columns = {}
    for i, (name, mine) in enumerate(parts.items()):
        order = np.argsort(-probabilities[mine], kind="stable")
        precision = np.cumsum(hits[mine][order]) / np.arange(1, order.size + 1)
        columns[name] = precision[np.ceil(shares * order.size).astype(int) - 1].tolist()
        axes.plot(shares, columns[name], color=_COLOURS[i], linewidth=1.5, label=f"{name}: {order.size:,}")
        for wanted, threshold in zip(PRECISIONS, choices.precision.get(name, ()), strict=False):
            taken = int((probabilities[mine] >= threshold).sum())
            if taken and wanted in _MARKED:
                at = (taken / order.size, precision[taken - 1])
                axes.plot(*at, color=_COLOURS[i], marker="o", markersize=4)
                axes.annotate(f"{wanted:g}", at, (3, 4), textcoords="offset points", fontsize=7, color=_INK)
    write_table(folder / "abstention.csv", {"kept": shares.tolist(), **columns})
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of suggestions kept, the most probable first", ylabel="precision")
    axes.legend(frameon=False, title="suggestions; dots: thresholds\nfor a precision wanted on dev")
    _save(figure, folder / "abstention.png")


def training_curves(folder: Path, out: Path) -> bool:
    """Draw what DVCLive logged under `folder` (its plots/metrics/**.tsv): loss, dev metrics, rates, speed, memory.

    Returns:
        Whether there was anything to draw.
    """
    panels = _panels(folder / "plots" / "metrics")
    if not panels:
        return False
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), dpi=120, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (title, lines) in zip(grid, panels.items(), strict=False):
        for i, (name, (steps, values)) in enumerate(lines.items()):
            marker = "o" if len(steps) < 20 else None
            colour = _COLOURS[i % len(_COLOURS)]
            axes.plot(steps, values, color=colour, linewidth=1.5, marker=marker, markersize=4, label=name)
        axes.set_title(title, fontsize=10, loc="left", color=_INK)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_ylim(bottom=0)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8)
        _plain(axes)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    _save(figure, out)
    return True


def _panels(root: Path) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Title → name → steps and values of the series below `root`; panels for each network where there are several."""
    series = {file.relative_to(root).with_suffix("").as_posix(): file for file in sorted(root.rglob("*.tsv"))}
    members = {match[0] for name in series if (match := re.match(r"member_\d+/", name))} or {""}
    panels = {
        f"{title}, {member[:-1].replace('_', ' ')}" if member else title: {
            name.rpartition("/")[2]: _read_series(file)
            for name, file in series.items()
            if re.match(member + pattern, name)
        }
        for member in sorted(members, key=lambda name: (len(name), name))
        for title, pattern in _PANELS.items()
    }
    return {title: lines for title, lines in panels.items() if lines}


def _read_series(file: Path) -> tuple[list[float], list[float]]:
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    # DVCLive calls the value's column after the last part of the metric's name.
    return [float(row["step"]) for row in rows], [float(row[file.stem]) for row in rows]


def _grouped_bars(
    axes: Axes,
    captions: Sequence[str],
    values: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[Sequence[float]]],
) -> None:
    width = 0.8 / len(values)
    for i, (ranker, heights) in enumerate(values.items()):
        at = np.arange(len(captions)) + (i - (len(values) - 1) / 2) * width
        height = np.asarray(heights)
        low, high = np.asarray(intervals[ranker]).T
        # A percentile interval of a skewed figure may lie on one side of it.
        whiskers = np.maximum([height - low, high - height], 0)
        axes.bar(at, height, width * 0.92, color=_COLOURS[i % len(_COLOURS)], label=caption(ranker))
        axes.errorbar(at, height, whiskers, fmt="none", ecolor=_INK, elinewidth=1, capsize=2)
        for x, y, top in zip(at, height, high, strict=True):
            axes.annotate(
                f"{y:.2f}", (x, max(y, top)), (0, 2), textcoords="offset points", ha="center", fontsize=7, color=_INK
            )
    axes.set_xticks(np.arange(len(captions)), captions)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", color=_INK)
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> None:
    # Without the library's version in it the same figures give the same bytes.
    figure.savefig(path, metadata={"Software": None})
