"""release: move the champion by hand, or clean the store; the reason is kept."""

from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.artifacts import create_table_artifact

from cascadexml.errors import DataError
from flows import tasks


@flow(name="release")
def release(
    action: Literal["promote", "roll_back", "collect_garbage"],
    reason: str,
    version: str | None = None,
    alias: str = tasks.CHAMPION,
    project: str = ".",
    keep: int | None = None,
    dry_run: bool = False,
) -> list[dict[str, Any]]:
    """Promote a version, roll an alias back, or remove what no reader needs.

    Args:
        action: what to do.
        reason: why, for the alias's history.
        version: to promote; when rolling back, the version before the present one by default.
        alias: the alias to move.
        project: the project's root, whose params.yaml names registry and model.
        keep: garbage collection also removes complete versions that no alias needs, but for the newest so many.
        dry_run: only say what garbage collection would remove.

    Returns:
        The alias's history, or what was removed.

    Raises:
        DataError: there is no version to promote, or no reason.
        RegistryError: the registry refuses.
    """
    if not reason.strip():
        raise DataError("The reason is empty: say in a few words why, for the history.")
    registry, name = tasks.model_registry(Path(project).resolve())
    if action == "collect_garbage":
        removed = registry.gc(name, older_than=timedelta(days=1), keep=keep, dry_run=dry_run)
        rows = [{"removed": str(each)} for each in removed]
        create_table_artifact(rows, key="removed", description=reason)
        return rows
    if action == "promote":
        if version is None:
            raise DataError("No version is given: name the one to promote; `cascadexml registry list` shows them.")
        registry.promote(name, version, alias, reason=reason, by=tasks.whoami())
    else:
        registry.roll_back(name, alias, reason=reason, by=tasks.whoami(), to=version)
    history = [
        {"when": move.when, "by": move.by, "from": move.source, "to": move.target, "why": move.reason}
        for move in registry.history(name, alias)
    ]
    create_table_artifact(history, key="history", description=f"Moves of {alias}, oldest first")
    return history
