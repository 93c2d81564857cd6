"""Quality against time, as a picture: the lines that `trials.py` printed.

    python benchmarks/curve.py LINES.jsonl PICTURE.svg [--metric nDCG@20]

One point a setting: minutes of the stages that ran, and the metric on dev, means over the setting's seeds. A trial that
came out of DVC's cache has no minutes and is passed over; one that took a part from there has too few.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

from matplotlib import rcParams
from matplotlib.figure import Figure


def main() -> None:
    """Draw the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--metric", default="nDCG@20")
    arguments = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in map(json.loads, arguments.lines.read_text(encoding="utf-8").splitlines()):
        if line.get("minutes") is not None:
            name = " ".join(line["settings"]) or "as shipped"
            found[name].append((line["minutes"], 100 * line["dev"][arguments.metric]))
    points = sorted((mean(m for m, _ in each), mean(v for _, v in each), name) for name, each in found.items())
    draw(points, arguments.metric, arguments.picture)


def draw(points: list[tuple[float, float, str]], metric: str, picture: Path) -> None:
    """Write the picture of (minutes, percent, settings)."""
    # Text as text, and the same file from the same points.
    rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "quality against time"})
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([minutes for minutes, _, _ in points], [value for _, value, _ in points], "o-", color="#0072b2")
    for minutes, value, name in points:
        axes.annotate(name.replace("train.", ""), (minutes, value), (6, -12), textcoords="offset points", fontsize=8)
    axes.set(xlabel="minutes of the stages that ran", ylabel=f"{metric} on dev, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.2, y=0.12)
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
