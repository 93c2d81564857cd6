"""A copy of the project in which the pipeline has run once, small, on data of one's own and with a tiny encoder.

The tests of a file run in one process, one after the other; two files may run side by side. `make run` is done once for
all of them: who needs its services too (a registry, a Prefect server) takes `finished` and belongs to the group
`services`, the others take `at_rest`.
"""

import itertools
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from cascadexml.registry import Registry
from tests.support.scheduling import ORDER, group_of
from tests.support.tiny_encoders import make_tiny_encoder

REPO = Path(__file__).resolve().parents[2]

# Small enough for seconds a stage. The records are real; the encoder is untrained.
# Its vocabulary lacks most labels of any batch, and it ranks badly: neither may quarantine a batch here.
SMALL = (
    "tokenize.max_length=24 train.epochs=1 cluster.min_df=1 evaluate.bootstrap_samples=50 drift.batch=later.jsonl "
    "drift.max_unseen_share=1 drift.max_length_ratio=100 drift.min_quality_share=0 "
    # Evidently costs half a minute a page; test_drift_stage.py has it made.
    "drift.report_rows=0"
)

MODEL = "own-data"
"""What the finished project's model is called, after its source."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the groups that take longest first."""
    last = len(ORDER)
    ranks = {item: group_of(item.path.name) for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: 0 if item not in ranks else ORDER.index(ranks[item]) if ranks[item] in ORDER else last)


@dataclass(frozen=True)
class Project:
    """A git repository with a copy of the working tree and the environment that runs the tests."""

    root: Path
    environment: dict[str, str]

    def sh(self, command: str, *, ok: bool = True) -> str:
        """Run a shell command in the project; give stdout and stderr together."""
        run = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=580,
        )
        assert (run.returncode == 0) == ok, f"{command} gave {run.returncode}:\n{run.stdout[-4000:]}"
        return run.stdout

    def ran(self, output: str) -> list[str]:
        """The stages that `make run`, `dvc repro` or `dvc exp run` ran, by what it printed."""
        return re.findall("Running stage '([^']+)'", output)


def copy_working_tree(target: Path) -> None:
    """What git would commit of the working tree as it is now; dvc.lock stays behind, so that nothing counts as done."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        if name != "dvc.lock" and not name.startswith("data/reports/") and (REPO / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, target / name)


def environment_of(root: Path, site_cache: Path) -> dict[str, str]:
    """What commands in the project at `root` find in their environment."""
    return {
        **os.environ,
        # The environment is there already: make must not install into it from a copy.
        "MAKEFLAGS": "-o .venv/.installed",
        "PATH": f"{root / '.venv' / 'bin'}:{os.environ['PATH']}",
        "DVC_SITE_CACHE_DIR": str(site_cache),
        "HF_HUB_OFFLINE": "1",
        "SET": f"encoder.name=tiny-encoder {SMALL}",
        **{f"GIT_{who}_{what}": value
           for who in ("AUTHOR", "COMMITTER")
           for what, value in (("NAME", "Test"), ("EMAIL", "test@example.org"))},
    }  # fmt: skip


def environment(project: Project) -> dict[str, str]:
    """What `make up` wrote for other processes."""
    lines = (project.root / ".local" / "environment").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines)


@contextmanager
def registry_of(project: Project, cache: Path) -> Iterator[Registry]:
    """The registry that the project's flows use, by the environment that `make up` wrote."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment(project).items():
            patch.setenv(key, value)
        yield Registry(environment(project)["CASCADEXML_REGISTRY"], cache=cache)


@pytest.fixture(scope="session")
def fresh_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The copy; its services, once `make run` or `make up` has started them, end with the tests."""
    root = tmp_path_factory.mktemp("project")
    copy_working_tree(root)
    (root / ".venv").symlink_to(REPO / ".venv")
    make_tiny_encoder("bert", root / "tiny-encoder", layers=4)
    own = root / "own-data"
    own.mkdir()
    for split, n in {"train": 400, "dev": 80, "test": 80}.items():
        with lzma.open(REPO / "data" / "sample" / f"{split}.jsonl.xz", "rt", encoding="utf-8") as lines:
            (own / f"{split}.jsonl").write_text("".join(itertools.islice(lines, n)), encoding="utf-8")
    later = REPO / "data" / "sample" / "incoming" / "2022-2025.jsonl.xz"
    with lzma.open(later, "rt", encoding="utf-8") as lines:
        (root / "later.jsonl").write_text("".join(itertools.islice(lines, 100)), encoding="utf-8")
    shutil.copy(REPO / "data" / "sample" / "label_texts.json.xz", own)
    made = Project(root, environment_of(root, tmp_path_factory.mktemp("dvc-site")))
    apart = "\\n".join(("/own-data", "/own-batches", "/later.jsonl", "/tiny-encoder", "/.venv", ""))
    made.sh(f"git init --quiet && printf '{apart}' >> .git/info/exclude")
    made.sh("git add --all && git commit --quiet -m start")
    try:
        yield made
    finally:
        made.sh("make down")


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of one test run share: there lies the finished project, once it is finished."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def finished(fresh_project: Project, kept: Path) -> tuple[Project, str]:
    """The project after `make run`, committed, and what `make run` printed."""
    with FileLock(kept / "lock"):
        printed = fresh_project.sh(f"make run SOURCE={MODEL}")
        fresh_project.sh("git add --all && git commit --quiet -m run")
        if not (kept / "printed").exists():
            without_services = shutil.ignore_patterns(".local", ".venv")
            shutil.copytree(fresh_project.root, kept / "project", symlinks=True, ignore=without_services)
            (kept / "printed").write_text(printed, encoding="utf-8")
    return fresh_project, printed


@pytest.fixture(scope="session")
def copy_finished(
    request: pytest.FixtureRequest, kept: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], tuple[Project, str]]:
    """Makes a copy of the project after `make run`, without its services, and gives what `make run` printed, too."""

    def copy() -> tuple[Project, str]:
        with FileLock(kept / "lock"):
            there = (kept / "printed").exists()
        if not there:
            request.getfixturevalue("finished")
        root = tmp_path_factory.mktemp("at-rest") / "project"
        shutil.copytree(kept / "project", root, symlinks=True)
        (root / ".venv").symlink_to(REPO / ".venv")
        project = Project(root, environment_of(root, tmp_path_factory.mktemp("dvc-site")))
        project.sh("git status --short >/dev/null && dvc checkout --quiet --force")
        return project, (kept / "printed").read_text(encoding="utf-8")

    return copy


@pytest.fixture(scope="session")
def at_rest(copy_finished: Callable[[], tuple[Project, str]]) -> tuple[Project, str]:
    """A copy that tests of DVC's part share, and what `make run` printed."""
    return copy_finished()


@pytest.fixture(scope="module")
def served(copy_finished: Callable[[], tuple[Project, str]]) -> Iterator[Project]:
    """A copy for the tests of one file, with services of its own in which its model is published."""
    project, _ = copy_finished()
    try:
        project.sh(f"make run SOURCE={MODEL}")
        yield project
    finally:
        project.sh("make down")
