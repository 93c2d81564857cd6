"""Every question of scale with the figure that is wanted and the one that is seen: one Markdown table.

    python -m benchmarks [--run FOLDER] [--long] [--only SCRIPT ...] [--out FOLDER]

FOLDER is a checkout in which `make run` has run. The short form asks fewer labels and rounds, in some minutes; --long
asks all, in hours. What each script printed is kept as JSON lines below --out, beside the picture of growth.py.
"""

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.machine import machine

OUT = Path("data/benchmarks/scale")
FULL = 670_091
"""Labels of Amazon-670K."""
Lines = Sequence[dict[str, Any]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Script:
    """What is run: `{run}` in an argument stands for the checkout of the finished run.

    Attributes:
        short: arguments of the short form.
        long: arguments of the long form.
    """

    short: tuple[str, ...]
    long: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A question, the figure that is wanted, and how the lines of a script answer it.

    Attributes:
        read: the figure seen; None where this form does not ask it.
    """

    question: str
    wanted: str
    bound: float
    script: str
    read: Callable[[Lines], float | None]

    def reached(self, seen: float) -> bool:
        """Whether the bound is kept: `wanted` begins with its direction."""
        return seen <= self.bound if self.wanted.startswith("≤") else seen >= self.bound


CORPUS, ARTIFACT = "{run}/data/interim/corpus", "{run}/data/models/artifact"
PRINTED = ("{out}/steps.jsonl", "{out}/label_trees.jsonl", "--picture", "{out}/growth.svg")
SCRIPTS = {
    "steps": Script(
        (CORPUS, "--labels", "16384", "131073", "670091", "--steps", "4"),
        (CORPUS, "--labels", "4524", "16384", "131073", "670091", "2812281", "--steps", "10"),
    ),
    "label_trees": Script(
        ("--labels", "8192", "65536", "--documents", "100000"),
        ("--labels", "16384", "65536", "131073", "670091", "2812281", "--documents", "490449"),
    ),
    "indexers": Script(
        ("--labels", "670091", "--documents", "490449", "--rounds", "1"),
        ("--labels", "670091", "--documents", "490449", "--rounds", "2"),
    ),
    "reading": Script((CORPUS, "--rounds", "3"), (CORPUS, "--texts", "60000")),
    "export": Script(
        (ARTIFACT, CORPUS, "--texts", "128", "--rounds", "3"),
        (ARTIFACT, CORPUS),
    ),
    "wide": Script(
        ("--labels", "65536", "--documents", "48000", "--held-out", "15000", "--fitted", "1000"),
        ("--fitted", "20000"),
    ),
    "growth": Script(PRINTED, PRINTED),
}
"""In the order in which they run: growth reads what two others printed."""


def at(L: int, name: str) -> Callable[[Lines], float | None]:
    """A figure of the line of so many labels."""
    return lambda lines: next((line[name] for line in lines if line["labels"] == L), None)


def first(name: str) -> Callable[[Lines], float | None]:
    """A figure of the only line."""
    return lambda lines: lines[0][name]


def of_part(part: str, name: str) -> Callable[[Lines], float | None]:
    """A figure of a part's line, where all labels of the published shape were asked."""

    def read(lines: Lines) -> float | None:
        found = {line["part"]: line for line in lines}
        return found[part][name] if found["prepare"]["labels"] == FULL else None

    return read


def of_words(lines: Lines) -> float | None:
    """Milliseconds of the linear classifiers and the neighbours for one text, at the published shape."""
    found = {line["part"]: line for line in lines}
    if found["prepare"]["labels"] != FULL:
        return None
    return round(sum(found["rank"][kind]["ms for one text"] for kind in ("linear", "neighbours")), 2)


def faster(batch: int) -> Callable[[Lines], float | None]:
    """How many times as fast as torch int8 is."""
    return lambda lines: next(line["times as fast"]["int8"] for line in lines if line.get("batch") == batch)


def lost(ranker: str) -> Callable[[Lines], float | None]:
    """Points of P@1 on dev that int8 loses; None where the artifact holds no such ranker."""
    return lambda lines: next((line["lost"]["int8"]["P@1"] for line in lines if line.get("ranker") == ranker), None)


def steepest(cost: str) -> Callable[[Lines], float | None]:
    """The greatest exponent of a cost."""
    return lambda lines: max(
        (each for line in lines if line["cost"] == cost for each in line["exponents"]), default=None
    )


ROWS = [
    *(
        Row(
            f"training step over the bare encoder's, {L:,} labels",
            f"≤ {bound}",
            bound,
            "steps",
            at(L, "over the encoder"),
        )
        for L, bound in ((131_073, 1.05), (670_091, 1.15), (2_812_281, 1.25))
    ),
    *(
        Row(f"peak memory of a training, {L:,} labels, GB", f"≤ {bound}", bound, "steps", at(L, "peak GB"))
        for L, bound in ((670_091, 3), (2_812_281, 6))
    ),
    *(
        Row(
            f"one text over the bare encoder, {L:,} labels",
            f"≤ {bound}",
            bound,
            "steps",
            at(L, "answer to 1 over the encoder"),
        )
        for L, bound in ((131_073, 1.15), (670_091, 1.15), (2_812_281, 1.2))
    ),
    *(
        Row(
            f"64 texts over the bare encoder, {L:,} labels",
            "≤ 1.05",
            1.05,
            "steps",
            at(L, "answer to 64 over the encoder"),
        )
        for L in (131_073, 670_091, 2_812_281)
    ),
    Row(
        f"label tree of {FULL:,} labels, times faster than PECOS's indexer", "≥ 2", 2, "indexers", first("times faster")
    ),
    Row("its memory over PECOS's", "≤ 1", 1, "indexers", first("times the memory")),
    Row("its cosine within clusters over PECOS's", "≥ 0.98", 0.98, "indexers", first("times the cosine")),
    Row(
        "labels a second of the walk, some 60,000 labels",
        "≥ 5000",
        5000,
        "label_trees",
        at(65_536, "labels a second of the walk"),
    ),
    Row("label side at 2,812,281 labels, GB", "≤ 12", 12, "label_trees", at(2_812_281, "peak GB")),
    Row("label side at 2,812,281 labels, minutes", "≤ 30", 30, "label_trees", at(2_812_281, "minutes")),
    Row("tokenizing over the bare tokenizer's rate", "≥ 0.9", 0.9, "reading", first("rate over the bare tokenizer's")),
    Row(
        "reading a batch over the bare encoder's step",
        "≤ 0.03",
        0.03,
        "reading",
        first("batch over the encoder's step"),
    ),
    Row("int8 over torch in fp32, one text, times as fast", "≥ 1.8", 1.8, "export", faster(1)),
    Row("int8 over torch in fp32, 64 texts, times as fast", "≥ 1.8", 1.8, "export", faster(64)),
    *(
        Row(f"points of P@1 on dev that int8 loses, {ranker}", "≤ 0.5", 0.5, "export", lost(ranker))
        for ranker in ("cascade", "blend")
    ),
    Row(
        f"linear classifiers of {FULL:,} labels, hours (extrapolated)",
        "≤ 2",
        2,
        "wide",
        of_part("linear", "hours for all labels, extrapolated"),
    ),
    Row(
        "their memory while fitting, GB, shared pages counted in each process",
        "≤ 12",
        12,
        "wide",
        of_part("linear", "peak GB while fitting"),
    ),
    Row("one text by linear classifiers and neighbours, ms", "≤ 5", 5, "wide", of_words),
    *(
        Row(f"memory of {part} at {FULL:,} labels, GB", "≤ 4", 4, "wide", of_part(part, "peak GB"))
        for part in ("calibrate", "evaluate", "reference", "drift", "judge", "package")
    ),
    *(
        Row(f"steepest exponent of {cost}", "≤ 1", 1, "growth", steepest(cost))
        for cost in ("seconds a training step", "GB of a training", "seconds of the label side", "GB of the label side")
    ),
]


def main() -> None:
    """Run the scripts one after the other and print the table; exit code 1 where one of them failed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path(), help="the checkout with the finished run")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    printed: dict[str, Lines] = {}
    failed = []
    for name, script in SCRIPTS.items():
        told = script.long if arguments.long else script.short
        if name in arguments.only:
            lines = run(name, [each.format(run=arguments.run, out=arguments.out) for each in told], arguments.out)
            if lines is None:
                failed.append(name)
            else:
                printed[name] = lines
    print(table(printed), end="\n\n")
    print(f"{machine()}; {'long' if arguments.long else 'short'} form; lines in {arguments.out}")
    if failed:
        print(f"error: {', '.join(failed)} failed: what went wrong stands above.", file=sys.stderr)
        sys.exit(1)


def run(name: str, arguments: Sequence[str], out: Path) -> Lines | None:
    """A script's lines, which are kept in `out`; None where it failed."""
    log.info("%s %s", name, " ".join(arguments))
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode != 0:
        return None
    (out / f"{name}.jsonl").write_text(done.stdout, encoding="utf-8")
    return [json.loads(line) for line in done.stdout.splitlines()]


def table(printed: dict[str, Lines]) -> str:
    """Markdown: what was asked in this form."""
    lines = ["| question | wanted | seen | |", "|---|---:|---:|---|"]
    for row in ROWS:
        seen = row.read(printed[row.script]) if row.script in printed else None
        if seen is not None:
            verdict = "reached" if row.reached(seen) else "missed"
            lines.append(f"| {row.question} | {row.wanted} | {seen:g} | {verdict} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
