"""How cost grows with the number of labels, as exponents and as a picture: lines of steps.py and label_trees.py.

    python benchmarks/growth.py LINES.jsonl [...] --picture PICTURE.svg

Each cost is read off the lines that have it: seconds a training step and its memory, seconds of the label side and its
memory. An exponent is the slope between two numbers of labels next to each other, of logarithms: 1 is linear growth.
One JSON line a cost.
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

COSTS: Mapping[str, Callable[[dict[str, Any]], float | None]] = {
    "seconds a training step": lambda line: line.get("seconds a step"),
    "GB of a training": lambda line: line["peak GB"] if "seconds a step" in line else None,
    "seconds of the label side": lambda line: sum(line["seconds"].values()) if "seconds" in line else None,
    "GB of the label side": lambda line: line["peak GB"] if "seconds" in line else None,
}
Points = list[tuple[int, float]]


def main() -> None:
    """Print the exponents and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path, required=True)
    arguments = parser.parse_args()
    lines = [json.loads(line) for file in arguments.lines for line in file.read_text(encoding="utf-8").splitlines()]
    curves = {
        name: points
        for name, read in COSTS.items()
        if len(points := sorted((line["labels"], cost) for line in lines if (cost := read(line)) is not None)) > 1
    }
    for name, points in curves.items():
        rounded = {"points": [[L, round(cost, 3)] for L, cost in points], "exponents": exponents(points)}
        print(json.dumps({"cost": name, **rounded}))
    draw(curves, arguments.picture)


def exponents(points: Points) -> list[float]:
    """The slopes between neighbours, of logarithms."""
    return [round(math.log(b / a) / math.log(M / L), 2) for (L, a), (M, b) in itertools.pairwise(points)]


def draw(curves: Mapping[str, Points], picture: Path) -> None:
    """A panel a cost, both axes logarithmic, with a line of linear growth from the first point."""
    # Text as text, and the same file from the same points.
    rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "growth"})
    rows = math.ceil(len(curves) / 2)
    figure = Figure(figsize=(8.4, 3.4 * rows), layout="constrained")
    for axes, (name, points) in zip(figure.subplots(rows, 2, squeeze=False).flat, curves.items(), strict=False):
        labels, costs = zip(*points, strict=True)
        linear = [costs[0] * L / labels[0] for L in labels]
        axes.loglog(labels, linear, "--", color="#999999", label="linear growth")
        axes.loglog(labels, costs, "o-", color="#0072b2", label="measured")
        axes.set(xlabel="labels", title=name, ylim=(0.7 * min(costs), 3 * max(costs)))
        axes.set_xticks(labels, [f"{L:,}" for L in labels])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False)
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
