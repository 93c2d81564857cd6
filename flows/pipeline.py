"""pipeline: every DVC stage as a task, then publish, judge against the champion, promote."""

import argparse
import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from cascadexml.bundle import beside
from cascadexml.config import load_settings, overrides
from cascadexml.errors import CascadeXMLError
from cascadexml.evaluation.report import HEADLINES, OURS, EvaluationReport, caption
from flows import tasks


@flow(name="pipeline", validate_parameters=True)
def pipeline(
    project: str = ".", settings: list[str] | None = None, promote: tasks.Promote = "if_better"
) -> dict[str, Any]:
    """Run the whole pipeline, publish its artifact, and make it champion if it is better.

    Stopped at any moment, it goes on from where it stopped when it runs again: DVC skips what is done, training has
    its checkpoints, and publishing the same artifact twice is publishing it once.

    Args:
        project: the project's root.
        settings: key=value pairs written into params.yaml first, such as train.epochs=2.
        promote: if_better asks the judgement; always and never do not.

    Returns:
        {"uri", "version", "against", "promoted", "reasons"}.

    Raises:
        StageError: a stage failed; the message is its own.
    """
    folder = Path(project).resolve()
    if settings:
        overrides.apply(folder / "params.yaml", settings)
    load_settings(folder / "params.yaml")
    tasks.run_stages(tasks.dvc_stages(folder), folder)
    report(folder / "data" / "reports")
    champion = tasks.pull_champion(folder)
    outcome = tasks.decide(folder, champion, promote)
    with beside(folder / "data" / "reports" / "published.json") as new:
        new.write_text(tasks.to_json(outcome.to_json()), encoding="utf-8")
    return outcome.to_json()


def report(reports: Path) -> None:
    """The run's figures beside the baselines', and where its pages lie, on the run's page."""
    metrics = EvaluationReport.load(reports / "metrics.json")
    rows = [
        {
            "percent on test": name,
            OURS: tasks.percent(metrics.model.figures.get(name)),
            "95 % interval": " to ".join(tasks.percent(end) for end in metrics.model.intervals.get(name, ())),
            **{caption(key): tasks.percent(each.figures.get(name)) for key, each in metrics.baselines.items()},
        }
        for name in HEADLINES
    ]
    create_table_artifact(rows, key="metrics", description="This run and the baselines on the test split")
    pages = {
        "Data Docs": "validation/data_docs/index.html",
        "Drift report": "drift/report.html",
        "Best and worst examples": "examples.html",
        "P@k against the baselines": "evaluation/precision_at_k.png",
        "Recall by label frequency": "evaluation/recall_by_frequency.png",
        "Reliability": "evaluation/reliability.png",
        "Training curves": "evaluation/training.png",
    }
    lines = [f"- {tasks.link(reports / path, text)}" for text, path in pages.items() if (reports / path).is_file()]
    create_markdown_artifact("# Reports\n\n" + "\n".join(lines), key="reports")


def main() -> int:
    """`python -m flows.pipeline`: run it here, and give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=__doc__)
    parser.add_argument("--promote", choices=("if_better", "always", "never"), default="if_better")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="such as train.epochs=1")
    arguments = parser.parse_args()
    try:
        pipeline(settings=arguments.settings, promote=arguments.promote)
    except CascadeXMLError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
