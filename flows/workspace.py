"""A copy of the project for one retraining, so that the user's own params.yaml, dvc.lock and outs stay as they are.

What .dvc/config.local holds is not copied: it may be secret, and credentials come from the environment.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cascadexml.bundle import beside
from cascadexml.config import load_settings, overrides
from cascadexml.errors import ConfigError

CODE = ("cascadexml", "stages", "dvc.yaml", "params.yaml", "requirements.lock", ".dvcignore", ".dvc/config")


def make_workspace(project: Path, folder: Path, settings: Sequence[str]) -> None:
    """Copy the project's code and settings to `folder`; DVC's cache and remote are the project's.

    A workspace that is there already stays, so that a retraining that broke off goes on in it.

    Args:
        project: the project's root.
        folder: where the copy goes.
        settings: key=value pairs laid over its params.yaml.

    Raises:
        ConfigError: a setting is wrong.
    """
    if folder.exists():
        return
    with beside(folder) as new:
        new.mkdir()
        for name in CODE:
            source, target = project / name, new / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        _configure_dvc(project, new)
        for name in ("accepted", "base", "encoder"):
            (new / "data" / name).mkdir(parents=True)
        overrides.apply(new / "params.yaml", [*_absolute(project), *settings])


def _absolute(project: Path) -> list[str]:
    """Local paths among the settings, which are relative to the project, made absolute."""
    settings = load_settings(project / "params.yaml")
    local = {"download.source": settings.download.source, "encoder.name": settings.encoder.name}
    return [f"{key}={project / value}" for key, value in local.items() if (project / value).exists()]


def _configure_dvc(project: Path, folder: Path) -> None:
    # Git ignores data/, and DVC refuses to work in what git ignores unless it is told that there is no git.
    for key, value in (("core.no_scm", "true"), ("cache.dir", str(_cache(project)))):
        _dvc(folder, "config", "--local", key, value)


def _cache(project: Path) -> Path:
    return Path(_dvc(project, "cache", "dir").strip())


def _dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigError(f"dvc {' '.join(arguments)} failed in {folder}: {' '.join(done.stderr.split())}")
    return done.stdout
