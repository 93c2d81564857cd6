import subprocess
from pathlib import Path

from cascadexml.artifact.origin import git_revision, lock_digest


def test_the_git_revision_is_the_commit_and_says_when_code_differs(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.strip()

    assert git_revision(tmp_path) is None
    git("init", "-q")
    for name in ("code.py", "dvc.lock", "data/report.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    git("add", ".")
    git("commit", "-q", "-m", "One")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "dvc.lock").write_text("two")
    (tmp_path / "data" / "report.json").write_text("two")
    (tmp_path / "untracked.txt").write_text("two")
    assert git_revision(tmp_path) == commit
    (tmp_path / "code.py").write_text("two")
    assert git_revision(tmp_path) == f"{commit}-dirty"


def test_the_lock_digest_covers_the_stages_that_are_named() -> None:
    def digest(train: str, packed: str) -> str | None:
        stages = {"train": {"cmd": "t", "outs": [{"md5": train}]}, "package": {"cmd": "p", "outs": [{"md5": packed}]}}
        return lock_digest({"schema": "2.0", "stages": stages}, ["download", "train"])

    assert digest("1", "1") == digest("1", "2") != digest("2", "1")
    assert lock_digest({}, ["train"]) is None
    assert lock_digest({"schema": "2.0"}, ["train"]) is None
    assert lock_digest({"stages": {"package": {}}}, ["train"]) is None
