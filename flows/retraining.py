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
from cascadexml.config import Challenger, load_settings
from cascadexml.errors import DataError
from flows import tasks
from flows.challengers import check_start, left_to_try, make_plans
from flows.pipeline import report
from flows.records import Plan, Retraining
from flows.workspace import make_workspace

LEFT_OUT = ("drift",)
"""Stages that a retraining has no use for: the batch was compared before it was accepted."""


@flow(name="retraining")
def retraining(
    batch: str | None = None,
    reason: str = "schedule",
    project: str = ".",
    challenger: Challenger | None = None,
    force: bool = False,
) -> State[dict[str, Any]]:
    """Train a challenger on the corpus and all accepted batches, and promote it only if it beats the champion.

    It works in a copy of the project under data/workspaces, named by what goes into it, so that a retraining that broke
    off goes on where it stopped, and one that has been done is not done again.

    Args:
        batch: the key of the batch that asked for this, for the record; all accepted batches are used.
        reason: why, for the record.
        project: the project's root.
        challenger: None: `retrain.challenger` of params.yaml. refit: the champion's network as it is, linear
            classifiers, neighbours and blend fitted anew. warm: the network trains on as well. cold: from the encoder's
            own weights and a new tree; label rows stay all the same. refit_first: a refit and, if that does not beat
            the champion, warm.
        force: also when the champion already knows all batches, or this was tried before and the champion stayed.

    Returns:
        A completed state, called Promoted, ChampionStays or NothingNew.

    Raises:
        StageError: a stage failed.
        DataError: there is no champion to start from.
        ConfigError: settings do not go together; or the champion was exported, and only a cold start can follow it.
    """
    folder = Path(project).resolve()
    settings = load_settings(folder / "params.yaml")
    champion = tasks.pull_champion(folder)
    if champion is None:
        raise DataError(f"{settings.package.name} has no champion to follow: run the pipeline flow first.")
    params = hashlib.sha256((folder / "params.yaml").read_bytes()).hexdigest()
    asked = challenger or settings.retrain.challenger
    check_start(champion.path, asked)
    plans, nothing = make_plans(settings, params, champion.version.version, accepted(folder), asked), ""
    if not force:
        plans, nothing = left_to_try(plans, done_before(folder))
    if not plans:
        create_markdown_artifact(f"# Nothing new\n\n{nothing}", key="judgement")
        return Completed(name="NothingNew", message=nothing)
    get_run_logger().info("retraining because of %s, %d batches", batch or reason, len(plans[0].batches))
    tried = try_in_turn(folder, champion, plans, batch, reason)
    said = [f"{each.plan.challenger}: {' '.join(each.outcome.reasons)}" for each in tried]
    last = tried[-1].outcome
    create_markdown_artifact("# Challengers\n\n" + "\n".join(f"- {each}" for each in said), key="challengers")
    name = "Promoted" if last.promoted else "ChampionStays"
    return Completed(name=name, message=" ".join(said), data=last.to_json())


def try_in_turn(
    folder: Path, champion: tasks.Champion, plans: Sequence[Plan], batch: str | None, reason: str
) -> list[Retraining]:
    """Train and judge one challenger after the other until one serves; each is noted before the next begins."""
    tried: list[Retraining] = []
    for plan in plans:
        get_run_logger().info(
            "challenger: %s, with %s", plan.challenger, " ".join(plan.settings) or "no other settings"
        )
        workspace = folder / "data" / "workspaces" / plan.key
        prepare(folder, workspace, champion, plan)
        tasks.run_stages([stage for stage in tasks.dvc_stages(workspace) if stage not in LEFT_OUT], workspace)
        kept = folder / "data" / "reports" / "retraining" / plan.key
        report(keep_reports(workspace, kept))
        tried.append(Retraining(plan, tasks.decide(workspace, champion, "if_better"), batch, reason))
        keep_reports(workspace, kept)  # with the judgement's page
        note(folder, tried[-1])
        shutil.rmtree(workspace)
        if tried[-1].outcome.serves:
            break
    return tried


@task(**tasks.NETWORK_RETRIES)
def accepted(folder: Path) -> list[str]:
    """The keys of all batches that monitoring accepted, oldest first."""
    registry, name = tasks.model_registry(folder)
    return registry.records(name, "batches")


@task(**tasks.NETWORK_RETRIES)
def done_before(folder: Path) -> list[Retraining]:
    """All challengers that retrainings have tried."""
    registry, name = tasks.model_registry(folder)
    read = (registry.read_record(name, "retrainings", key) for key in registry.records(name, "retrainings"))
    return [Retraining.from_json(json.loads(content)) for content in read]


@task(**tasks.NETWORK_RETRIES)
def prepare(folder: Path, workspace: Path, champion: tasks.Champion, plan: Plan) -> None:
    """Make the workspace: code and settings, the champion to start from, the accepted batches."""
    make_workspace(folder, workspace, plan.settings)
    registry, name = tasks.model_registry(folder)
    base = workspace / "data" / "base" / "artifact"
    if not base.exists():
        with beside(base) as new:
            shutil.copytree(champion.path, new)
    for key in plan.batches:
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
