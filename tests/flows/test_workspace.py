"""A retraining's workspace: what DVC hashes there is what it hashes in the project."""

import shutil
import subprocess
import sys
from pathlib import Path

from flows.workspace import make_workspace

REPO = Path(__file__).resolve().parents[2]


def dvc(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_compiled_files_in_the_workspace_change_no_hash_of_its_code(tmp_path: Path) -> None:
    project, workspace = tmp_path / "project", tmp_path / "workspace"
    project.mkdir()
    for name in ("cascadexml", "stages", ".dvc/config", ".dvcignore", "dvc.yaml", "params.yaml", "requirements.lock"):
        (shutil.copytree if (REPO / name).is_dir() else _copy)(REPO / name, project / name)
    dvc(project, "config", "--local", "core.no_scm", "true")
    make_workspace(project, workspace, ["train.epochs=0.5"])
    compiled = workspace / "cascadexml/config/__pycache__/anything.pyc"
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(b"whatever")
    assert dvc(workspace, "check-ignore", str(compiled.relative_to(workspace))).strip()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
