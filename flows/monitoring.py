"""monitoring: a batch of new records against the champion's reference; a verdict, a history, an event on drift."""

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.states import Completed

from cascadexml.config import load_settings
from cascadexml.errors import DataError
from cascadexml.monitoring.verdict import Check, Verdict
from flows import tasks

DRIFT_EVENT = "cascadexml.drift.detected"
QUARANTINE_EVENT = "cascadexml.batch.quarantined"
STATES = {"stable": "Stable", "drift": "Drift", "quarantined": "Quarantined"}


@flow(name="monitoring")
def monitoring(batch: str | None = None, project: str = ".", repeat: bool = False) -> State[dict[str, Any]]:
    """Validate a batch, compare it with what the champion was trained on, keep the verdict, and tell of drift.

    A batch with labels that is fit to learn from is kept in the registry for retraining, whatever the verdict. A batch
    that the same champion has seen before changes nothing and sends no event.

    Args:
        batch: file, folder, archive, http(s):// or s3:// of new records; by default `drift.batch` of params.yaml.
        project: the project's root.
        repeat: send the event again for a batch that has been judged before.

    Returns:
        A completed state, called Stable, Drift or Quarantined, that holds the verdict; NoBatch where no batch is named
        and the folder `drift.batch` is empty.

    Raises:
        StageError: the batch cannot be read at all.
        DataError: there is no champion.
    """
    folder = Path(project).resolve()
    settings = load_settings(folder / "params.yaml")
    champion = tasks.pull_champion(folder)
    if champion is None:
        raise DataError(f"{settings.package.name} has no champion to monitor for: run the pipeline flow first.")
    source = batch or settings.drift.batch
    out = folder / "data" / "reports" / "monitoring" / _folder_name(source)
    compare(batch, champion, folder, out)
    document = tasks.read_json(out / "verdict.json")
    if document["verdict"] is None:
        return Completed(name="NoBatch", message=" ".join(document["reasons"]), data=document)
    verdict = Verdict.from_json(document)
    key = f"{verdict.batch.id}-{champion.version.version}"
    keep_batch(folder, out, verdict)
    # The event goes before the record that it is about: a run that dies between the two sends it twice, not never.
    if repeat or not seen(folder, key):
        announce(verdict, champion)
    else:
        get_run_logger().info("this champion has seen the batch before: no event is sent")
    keep_verdict(folder, out, key)
    report(folder, out, champion, verdict)
    name = STATES[verdict.outcome]
    message = " ".join(verdict.reasons) or "no check failed"
    return Completed(name=name, message=message, data=verdict.to_json())


@task
def compare(batch: str | None, champion: tasks.Champion, folder: Path, out: Path) -> None:
    """Run the drift stage on the batch, by default on that of params.yaml, with the champion's model and reference."""
    named = ["--batch", batch] if batch else []
    command = [tasks.PYTHON, "-m", "stages.drift", *named, "--model", str(champion.path), "--out", str(out)]
    tasks.run_command(command, folder)


@task(**tasks.NETWORK_RETRIES)
def keep_batch(folder: Path, out: Path, verdict: Verdict) -> None:
    """Keep the accepted records in the registry, for retraining, if they have labels and are fit to learn from."""
    batch = verdict.batch
    if verdict.outcome != "quarantined" and batch.labelled:
        registry, name = tasks.model_registry(folder)
        files: dict[str, bytes | Path] = {
            "records.parquet": out / "accepted.parquet",
            "record.json": tasks.to_json(asdict(batch)).encode(),
        }
        registry.put_record(name, "batches", batch.id, files)


@task(**tasks.NETWORK_RETRIES)
def seen(folder: Path, key: str) -> bool:
    """Whether the verdict of this batch and champion is in the registry."""
    registry, name = tasks.model_registry(folder)
    return key in registry.records(name, "monitoring")


@task(**tasks.NETWORK_RETRIES)
def keep_verdict(folder: Path, out: Path, key: str) -> None:
    """Keep the verdict and its report in the registry; those of a batch that was seen before stay as they are."""
    registry, name = tasks.model_registry(folder)
    if key not in registry.records(name, "monitoring"):
        files: dict[str, bytes | Path] = {
            file: out / file for file in ("report.html", "report.json", "rejects.parquet") if (out / file).is_file()
        }
        registry.put_record(name, "monitoring", key, {**files, "record.json": out / "verdict.json"})


def announce(verdict: Verdict, champion: tasks.Champion) -> None:
    """Send the event that automations listen for."""
    event = {"drift": DRIFT_EVENT, "quarantined": QUARANTINE_EVENT}.get(verdict.outcome)
    if event is None:
        return
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"cascadexml.model.{champion.version.name}",
            "prefect.resource.name": champion.version.name,
        },
        payload={
            "batch": verdict.batch.id,
            "source": verdict.batch.source,
            "champion": champion.version.version,
            "failed": verdict.failed,
            "reasons": verdict.reasons,
        },
    )
    get_run_logger().info("sent the event %s for %s", event, verdict.batch.id)


def report(folder: Path, out: Path, champion: tasks.Champion, verdict: Verdict) -> None:
    """The verdict, its checks and the history of verdicts on the run's page."""
    from cascadexml.monitoring.history import history_figure

    registry, name = tasks.model_registry(folder)
    keys = registry.records(name, "monitoring")
    history = [Verdict.from_json(json.loads(registry.read_record(name, "monitoring", key))) for key in keys]
    history_figure(history, out.parent / "history.png")
    batch = verdict.batch
    lines = [
        f"# {STATES[verdict.outcome]}: {batch.id}",
        "",
        f"{batch.records} records from `{batch.source}`, {batch.accepted} accepted, {batch.refused} "
        f"refused, {batch.labelled} with labels; against `{champion.version.uri}`.",
        "",
        *(f"- {reason}" for reason in verdict.reasons),
        "",
        *(
            f"- {tasks.link(path, text)}"
            for text, path in (("Evidently report", out / "report.html"), ("History", out.parent / "history.png"))
            if path.is_file()
        ),
    ]
    create_markdown_artifact("\n".join(lines), key="drift-verdict")
    create_table_artifact([_row(check) for check in verdict.checks], key="drift-checks")
    table = [
        {
            "batch": each.batch.id,
            "records": each.batch.records,
            "verdict": each.outcome,
            "failed": ", ".join(each.failed),
        }
        for each in history
    ]
    create_table_artifact(table, key="drift-history", description="All batches, oldest first")


def _folder_name(source: str) -> str:
    stem = re.sub("[^A-Za-z0-9-]+", "-", Path(source).name.partition(".")[0]).strip("-") or "batch"
    return f"{stem}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


def _row(check: Check) -> dict[str, Any]:
    return {
        "check": check.name,
        "statistic": check.statistic,
        "value": f"{check.value:.4g}",
        "threshold": f"{check.threshold:.4g}",
        "p": "" if check.p_value is None else f"{check.p_value:.2g}",
        "failed": "yes" if check.failed else "",
    }
