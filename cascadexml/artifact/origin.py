"""Where a model comes from: settings, data, the code's commit and what DVC locked."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a model comes from; kept in the manifest and told in the model card.

    Attributes:
        name: what the model is called.
        params: all settings of the run, one mapping a stage, as in params.yaml.
        documents: how many documents each split has.
        data_fingerprint: the corpus's fingerprint.
        git_revision: the commit that the run's code is of; None outside a repository.
        dvc_lock: SHA-256 over what dvc.lock says of the stages before packaging; None without DVC.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    documents: Mapping[str, int] = field(default_factory=dict)
    data_fingerprint: str | None = None
    git_revision: str | None = None
    dvc_lock: str | None = None


def git_revision(folder: Path) -> str | None:
    """The commit that is checked out, with "-dirty" when tracked files differ that DVC does not write.

    Args:
        folder: the repository's; what is compared is this folder, save dvc.lock and data/.

    Returns:
        None without git, or outside a repository.
    """
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> str | None:
        answer = subprocess.run([git, *arguments], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
        return answer.stdout.strip() if answer.returncode == 0 else None

    revision = ask("rev-parse", "HEAD")
    if revision is None:
        return None
    changed = ask("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock", ":!data")
    return f"{revision}-dirty" if changed else revision


def lock_digest(lock: Mapping[str, Any], stages: Sequence[str]) -> str | None:
    """SHA-256 over what a dvc.lock says of some stages; None where it says nothing of them.

    The file's own digest would change once the stage that packs has run.

    Args:
        lock: the content of dvc.lock.
        stages: those that made what is packed.
    """
    known = lock.get("stages", {})
    upstream = {name: known[name] for name in stages if name in known}
    text = json.dumps(upstream, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest() if upstream else None
