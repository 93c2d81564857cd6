"""Figures in the documents against what their commands print: the committed reports, and the bundled sample."""

import json
import lzma
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from cascadexml.evaluation.report import EvaluationReport
from flows.summary import WIDTH, metrics_table

REPO = Path(__file__).resolve().parents[2]
SAMPLE = REPO / "data" / "sample"
BATCHES = ("2018-2019", "2020-2021", "2022-2025")


def page(name: str) -> str:
    return (REPO / name).read_text(encoding="utf-8")


def records(file: Path) -> list[dict[str, Any]]:
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_the_readmes_table_is_the_committed_metrics() -> None:
    console = Console(width=WIDTH, highlight=False, soft_wrap=True)
    with console.capture() as printed:
        console.print(metrics_table(EvaluationReport.load(REPO / "data/reports/metrics.json")))
    shown = page("README.md").partition("```text\n")[2].partition("\n\n")[0]
    assert shown.splitlines() == [line.rstrip() for line in printed.get().rstrip().splitlines()]


def test_the_neighbours_figures_are_the_committed_metrics() -> None:
    figures = json.loads(page("data/reports/metrics.json"))["baselines"]["tfidf_knn"]
    (told,) = re.findall(r"with 30 neighbours, `dvc metrics show` says: ([^`]+?)\.\n", page("docs/evaluation.md"))
    pairs = dict(re.findall(r"(\S+@\d+) (0\.\d{3})", told))
    assert len(pairs) == 6
    assert {name: f"{figures[name]:.3f}" for name in pairs} == pairs


def test_the_sample_holds_what_is_told_of_it() -> None:
    told = page("data/sample/README.md")
    splits = {name: records(SAMPLE / f"{name}.jsonl.xz") for name in ("train", "dev", "test")}
    for name, rows in splits.items():
        assert f"| `{name}.jsonl.xz` | {len(rows):,} |" in told
    known = {label for record in splits["train"] for label in record["labels"]}
    whole = sum(map(len, splits.values()))
    assert f"{whole:,} library records with {len(known):,} subjects" in told
    assert f"{whole:,} real library records with {len(known):,}\nsubject headings" in page("README.md")
    shares = []
    for name in BATCHES:
        uses = [label for record in records(SAMPLE / "incoming" / f"{name}.jsonl.xz") for label in record["labels"]]
        shares.append(f"{100 * sum(label not in known for label in uses) / len(uses):.1f} %")
    assert f"{shares[0]}, {shares[1]} and {shares[2]} of their label uses" in told
