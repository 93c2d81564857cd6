"""retraining: the accepted batches join the corpus, a challenger starts from the champion, the better one serves."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from cascadexml.bundle import beside
from cascadexml.config import load_settings
from cascadexml.errors import DataError
from flows import tasks
from flows.pipeline import report
from flows.records import Plan, Retraining
from flows.workspace import make_workspace

LEFT_OUT = ("drift",)
"""Stages that a retraining has no use for: the batch was compared before it was accepted."""


@flow(name="retraining")
def retraining(
    batch: str | None = None, reason: str = "schedule", project: str = ".", cold: bool = False, force: bool = False
) -> State[dict[str, Any]]:
    """Train a challenger on the corpus and all accepted batches, and promote it only if it beats the champion.

    It works in a copy of the project under data/workspaces, named by what goes into it, so that a retraining that broke
    off goes on where it stopped, and one that has been done is not done again.

    Args:
        batch: the key of the batch that asked for this, for the record; all accepted batches are used.
        reason: why, for the record.
        project: the project's root.
        cold: start from the encoder's own weights and a new tree, not the champion's; label rows stay all the same.
        force: also when the champion already knows all batches, or this was tried before and the champion stayed.

    Returns:
        A completed state, called Promoted, ChampionStays or NothingNew.

    Raises:
        StageError: a stage failed.
        DataError: there is no champion to start from.
    """
    folder = Path(project).resolve()
    settings = load_settings(folder / "params.yaml")
    champion = tasks.pull_champion(folder)
    if champion is None:
        raise DataError(f"{settings.package.name} has no champion to follow: run the pipeline flow first.")
    batches = accepted(folder)
    plan = make_plan(folder, champion, batches, settings.retrain.settings, cold)
    tried = None if force else done_before(folder, plan, champion)
    if tried is not None:
        create_markdown_artifact(f"# Nothing new\n\n{tried}", key="judgement")
        return Completed(name="NothingNew", message=tried)
    get_run_logger().info("retraining because of %s, %d batches", batch or reason, len(batches))
    workspace = folder / "data" / "workspaces" / plan.key
    prepare(folder, workspace, champion, batches, plan.settings)
    tasks.run_stages([stage for stage in tasks.dvc_stages(workspace) if stage not in LEFT_OUT], workspace)
    report(keep_reports(workspace, folder / "data" / "reports" / "retraining" / plan.key))
    outcome = tasks.decide(workspace, champion, "if_better")
    note(folder, Retraining(plan, outcome, batch, reason))
    shutil.rmtree(workspace)
    name = "Promoted" if outcome.promoted else "ChampionStays"
    return Completed(name=name, message=" ".join(outcome.reasons), data=outcome.to_json())


@task(**tasks.NETWORK_RETRIES)
def accepted(folder: Path) -> list[str]:
    """The keys of all batches that monitoring accepted, oldest first."""
    registry, name = tasks.model_registry(folder)
    return registry.records(name, "batches")


def make_plan(folder: Path, champion: tasks.Champion, batches: Sequence[str], extra: Sequence[str], cold: bool) -> Plan:
    """What goes into a retraining."""
    warm = () if cold else ("train.warm_start=true", *extra)
    params = hashlib.sha256((folder / "params.yaml").read_bytes()).hexdigest()
    return Plan(champion.version.version, tuple(sorted(batches)), warm, params)


@task(**tasks.NETWORK_RETRIES)
def done_before(folder: Path, plan: Plan, champion: tasks.Champion) -> str | None:
    """Why this plan needs no work, if it does not."""
    registry, name = tasks.model_registry(folder)
    keys = registry.records(name, "retrainings")
    if plan.key in keys:
        return "These batches have been tried against this champion, and it stayed."
    for key in keys:
        done = Retraining.from_json(json.loads(registry.read_record(name, "retrainings", key)))
        if done.outcome.version == champion.version.version and done.plan.batches == plan.batches:
            return "The champion was trained on all accepted batches."
    return None if plan.batches else "No batch has been accepted since the source was read."


@task(**tasks.NETWORK_RETRIES)
def prepare(
    folder: Path, workspace: Path, champion: tasks.Champion, batches: Sequence[str], settings: Sequence[str]
) -> None:
    """Make the workspace: code and settings, the champion to start from, the accepted batches."""
    make_workspace(folder, workspace, settings)
    registry, name = tasks.model_registry(folder)
    base = workspace / "data" / "base" / "artifact"
    if not base.exists():
        with beside(base) as new:
            shutil.copytree(champion.path, new)
    for key in batches:
        file = workspace / "data" / "accepted" / f"{key}.parquet"
        if not file.exists():
            with beside(file) as new:
                new.write_bytes(registry.read_record(name, "batches", key, "records.parquet"))


def keep_reports(workspace: Path, kept: Path) -> Path:
    """Copy the workspace's reports to where those of the project are served: the workspace goes at the end."""
    with beside(kept) as new:
        shutil.copytree(workspace / "data" / "reports", new)
    return kept


@task(**tasks.NETWORK_RETRIES)
def note(folder: Path, done: Retraining) -> None:
    """Keep in the registry what was tried and what came of it."""
    registry, name = tasks.model_registry(folder)
    if done.plan.key not in registry.records(name, "retrainings"):
        files = {"record.json": tasks.to_json(done.to_json()).encode()}
        registry.put_record(name, "retrainings", done.plan.key, files)
