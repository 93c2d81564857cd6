"""The verdicts on several batches as one figure. To import this costs neither torch nor matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from cascadexml.bundle import beside
from cascadexml.monitoring.verdict import Check, Verdict

OUTCOME_COLOURS = {"stable": "#2a7", "drift": "#c60", "quarantined": "#b00"}


def history_figure(verdicts: Sequence[Verdict], path: Path) -> None:
    """Draw each check's value over its threshold for several batches, oldest first; above 1 is beyond the threshold.

    A filled point marks a check that failed. A batch's verdict stands below its id; a quarantined batch has no point,
    because it was not compared.

    Args:
        verdicts: one a batch.
        path: the PNG file.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(c.name for v in verdicts for c in v.checks if c.kind != "validity"))
    figure = Figure(figsize=(max(7.0, 1.6 * len(verdicts) + 4), 6), layout="constrained")
    axes = figure.subplots()
    for i, name in enumerate(names):
        points = [
            (place, _ratio(check), check.failed)
            for place, verdict in enumerate(verdicts)
            for check in verdict.checks
            if check.name == name and check.kind != "validity"
        ]
        colour, marker = f"C{i % 10}", "os^vD"[i // 10 % 5]
        places, ratios = [place for place, _, _ in points], [ratio for _, ratio, _ in points]
        axes.plot(places, ratios, color=colour, linewidth=0.8, label=name, marker=marker, markerfacecolor="white")
        failed = [(place, ratio) for place, ratio, fails in points if fails]
        if failed:
            axes.plot(*zip(*failed, strict=True), color=colour, linestyle="", marker=marker)
    axes.axhline(1.0, color="black", linewidth=1)
    axes.set_xlim(-0.5, max(len(verdicts), 1) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("value over threshold")
    axes.set_xticks(range(len(verdicts)), [f"{v.batch.id}\n{v.outcome}" for v in verdicts], rotation=30, ha="right")
    for label, verdict in zip(axes.get_xticklabels(), verdicts, strict=True):
        label.set_color(OUTCOME_COLOURS[verdict.outcome])
    if names:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    with beside(path) as new:
        # Without the metadata the bytes would tell matplotlib's version.
        figure.savefig(new, format="png", dpi=110, metadata={"Software": None})


def _ratio(check: Check) -> float:
    """Value over threshold, at least 0; of an AUC what lies above 0.5, where there is nothing to tell."""
    nothing = 0.5 if check.kind == "embedding" else 0.0
    return float(max(check.value - nothing, 0.0) / max(check.threshold - nothing, 1e-9))
