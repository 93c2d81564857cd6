"""What `make run` ends with: the metrics beside the baselines, where the reports are, three predictions."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cascadexml.config import Settings
from cascadexml.data.corpus import Corpus
from cascadexml.errors import CascadeXMLError, DataError
from cascadexml.evaluation.report import HEADLINES, EvaluationReport, caption
from flows.records import Outcome
from stages import ARTIFACT, CORPUS, REPORTS, run

EXAMPLES = 3
WIDTH = 132
"""Columns of the table, which a page without a terminal would cut to 80."""


def main(settings: Settings) -> None:
    """Print it all to stdout; nothing is computed here but the three predictions."""
    console = Console(highlight=False, soft_wrap=True, width=WIDTH)
    path = REPORTS / "metrics.json"
    published = Outcome.from_json(read(REPORTS / "published.json"))
    console.print(metrics_table(EvaluationReport.load(path)))
    console.print("\nReports")
    for what, where in (
        ("all metrics", path),
        ("worst and best examples", REPORTS / "examples.html"),
        ("curves and bars", REPORTS / "evaluation"),
        ("data checks", REPORTS / "validation" / "data_docs" / "index.html"),
        ("the model card", ARTIFACT / "model_card.md"),
    ):
        console.print(f"  {what:<24} {where}", markup=False)
    place = "champion" if published.serves else f"challenger; the champion is {published.against}"
    console.print(f"\nPublished as {published.uri} ({place}: {' '.join(published.reasons)})", markup=False)
    show_examples(console, settings, published.uri)


def read(path: Path) -> dict[str, Any]:
    """A report of the run.

    Raises:
        DataError: it is not there, or is no JSON.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): run make run.") from None
    return found


def metrics_table(metrics: EvaluationReport) -> Table:
    """One row a metric: in percent, the model with its 95 % interval, and each of its sources and baselines."""
    table = Table(title="Test split, percent (95 % interval)", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for ranker in metrics.rankers:
        table.add_column(caption(ranker), justify="right", no_wrap=True)
    for name in HEADLINES:
        if name in metrics.model.figures:
            low, high = metrics.model.intervals[name]
            own = f"{100 * metrics.model.figures[name]:.2f} ({100 * low:.1f} to {100 * high:.1f})"
            table.add_row(name, own, *(f"{100 * each.figures[name]:.2f}" for each in metrics.baselines.values()))
    return table


def show_examples(console: Console, settings: Settings, uri: str) -> None:
    """Label three test texts with the published model, through the command line that users have."""
    corpus = Corpus.load(CORPUS, ["test"])
    test = corpus.splits["test"]
    rows = range(min(EXAMPLES, len(test)))
    records = "".join(json.dumps({"id": test.ids[row], "text": test.texts[row]}) + "\n" for row in rows)
    command = [str(Path(sys.executable).with_name("cascadexml")), "predict", uri, "--top-k", "5"]
    answer = subprocess.run(  # noqa: S603
        [*command, "--device", settings.train.device], input=records, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise CascadeXMLError(answer.stderr.strip().splitlines()[-1].removeprefix("cascadexml: error: "))
    console.print(f"\nThree test records, by {' '.join(['cascadexml', *command[1:]])} (+ marks a label of the record)")
    for row, line in zip(rows, answer.stdout.splitlines(), strict=True):
        text = test.texts[row]
        true = set(test.Y[row].indices.tolist())
        console.print(f"\n  {text[:160]}{'…' if len(text) > 160 else ''}", markup=False)
        for found in json.loads(line)["predictions"]:
            mark = "+" if corpus.vocabulary.row(found["id"]) in true else " "
            name = found["name"] or found["id"]
            console.print(f"   {mark} {found['probability']:5.1%}  {name}  ({found['id']})", markup=False)


if __name__ == "__main__":
    logging.captureWarnings(True)
    run(main)
