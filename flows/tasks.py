"""What several flows do: run a stage, keep its outs in the remote, judge, publish, promote, report."""

import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from prefect import get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact

from cascadexml.artifact.artifact import open_artifact
from cascadexml.bundle import beside
from cascadexml.config import load_settings
from cascadexml.errors import CascadeXMLError
from cascadexml.evaluation.candidates import check_comparable
from cascadexml.evaluation.judgement import Judgement
from cascadexml.registry import Registry, Version
from flows import leash
from flows.records import Outcome

Promote = Literal["if_better", "always", "never"]
ARTIFACT = Path("data") / "models" / "artifact"
JUDGEMENT = Path("data") / "reports" / "judgement"
PYTHON = sys.executable
CHAMPION, CHALLENGER = "champion", "challenger"
NETWORK_RETRIES: dict[str, Any] = {"retries": 3, "retry_delay_seconds": [5, 20, 60]}
"""For tasks whose failure may pass by itself: those that wait for a network."""
GRACE_SECONDS = 15.0
ERROR = re.compile(r"^(cascadexml: )?error: ")
"""How stages and the command line begin their one line on what went wrong."""


class StageError(CascadeXMLError):
    """A command of a flow ended with an error; the message is what it said last."""


class _WithoutTraceback(logging.Filter):
    """A user's mistake is one sentence in a run's log too."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], CascadeXMLError):
            record.msg, record.args, record.exc_info = f"{record.getMessage()}: {record.exc_info[1]}", (), None
        return True


for _name in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_name).addFilter(_WithoutTraceback())


def run_command(command: Sequence[str], folder: Path) -> None:
    """Run a command in `folder`, each line it prints one line of the run's log; it ends when the flow does.

    Raises:
        StageError: it exited with another code than 0.
    """
    logger = get_run_logger()
    last: deque[str] = deque(maxlen=1)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    process = subprocess.Popen(  # noqa: S603
        [PYTHON, leash.__file__, *command],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None  # noqa: S101
    try:
        for line in process.stdout:
            if text := line.rstrip():
                logger.info(text)
                if ERROR.match(text) or not (last and ERROR.match(last[0])):
                    last.append(text)
        code = process.wait()
    finally:
        process.stdin.close()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    if code:
        said = ERROR.sub("", last[0]) if last else "it said nothing"
        # No further: the address of a batch may carry a signature.
        raise StageError(f"{said} (exit code {code} of {' '.join(['python', *command[1:4]])})")


def dvc_stages(folder: Path) -> list[str]:
    """The stages of dvc.yaml, upstream first, as they stand there."""
    return list(yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


@task(task_run_name="{stage}")
def run_stage(stage: str, folder: Path, remote: bool) -> None:
    """Bring one DVC stage up to date; one that was run before with the same deps comes from the cache or the remote."""
    mend_lock(folder)
    run_command([PYTHON, "-m", "dvc", "repro", *(["--pull"] if remote else []), "--single-item", stage], folder)


def mend_lock(folder: Path) -> None:
    """Bring back the last whole dvc.lock where a torn one lies.

    DVC writes it in place: killed at that moment it leaves an empty or cut file, which it refuses to read ever after.
    """
    lock, kept = folder / "dvc.lock", folder / ".dvc" / "tmp" / "dvc.lock.whole"
    if not lock.exists():
        return
    try:
        content = yaml.safe_load(lock.read_text(encoding="utf-8"))
        whole = isinstance(content, dict) and isinstance(content.get("stages"), dict)
    except (yaml.YAMLError, UnicodeDecodeError):
        whole = False
    if whole:
        with beside(kept) as new:
            shutil.copyfile(lock, new)
        return
    get_run_logger().warning("dvc.lock is torn: a run was killed while writing it; going back to the last whole one")
    if kept.exists():
        with beside(lock) as new:
            shutil.copyfile(kept, new)
    else:
        # DVC's run cache still knows what ran.
        lock.unlink()


@task(task_run_name="what is up to date")
def up_to_date(stages: Sequence[str], folder: Path) -> list[str]:
    """The stages at the head of `stages` that would do nothing, by one look of DVC at all of them.

    What follows the first that does something depends on what it writes, so that one is asked when its turn comes.
    """
    mend_lock(folder)
    if not (folder / "dvc.lock").exists():
        return []
    asked = subprocess.run(  # noqa: S603
        [PYTHON, "-m", "dvc", "status", "--json", *stages], cwd=folder, capture_output=True, text=True, check=False
    )
    # Where DVC cannot tell, running the stages says what is wrong.
    changed = json.loads(asked.stdout) if asked.returncode == 0 else dict.fromkeys(stages)
    found = list(itertools.takewhile(lambda stage: stage not in changed, stages))
    get_run_logger().info("up to date: %s", ", ".join(found) or "nothing")
    return found


@task(task_run_name="push {stages}", **NETWORK_RETRIES)
def push(stages: str, folder: Path) -> None:
    """Send the outs of stages, divided by spaces, to the DVC remote: after a failure they need not be made again."""
    run_command([PYTHON, "-m", "dvc", "push", "--run-cache", *stages.split()], folder)


def run_stages(stages: Sequence[str], folder: Path) -> None:
    """Run stages in order and push each one's outs. Only `download` is tried again: its failure may pass by itself.

    Raises:
        StageError: a stage failed; those before it are in the remote.
    """
    remote = has_remote(folder)
    if not remote:
        get_run_logger().warning("no DVC remote is set (dvc remote add --default): the stages' outs stay here")
    done = up_to_date(stages, folder)
    if remote and done:
        # They may have been run by hand.
        push(" ".join(done), folder)
    for stage in stages[len(done) :]:
        retried = run_stage.with_options(retries=2, retry_delay_seconds=[5, 30]) if stage == "download" else run_stage
        retried(stage, folder, remote)
        if remote:
            push(stage, folder)


def has_remote(folder: Path) -> bool:
    """Whether DVC has a default remote in `folder`."""
    found = subprocess.run(  # noqa: S603
        [PYTHON, "-m", "dvc", "config", "core.remote"], cwd=folder, capture_output=True, check=False
    )
    return bool(found.stdout.strip())


def model_registry(folder: Path) -> tuple[Registry, str]:
    """The registry that params.yaml names (CASCADEXML_REGISTRY stands above it), and what it calls the model."""
    settings = load_settings(folder / "params.yaml")
    uri = os.environ.get("CASCADEXML_REGISTRY") or settings.registry.uri
    return Registry(uri, settings=settings.registry), settings.package.name


def whoami() -> str:
    """Who moves an alias, for its history: the flow run."""
    return f"flow {runtime.flow_run.flow_name} {runtime.flow_run.name}"


@dataclass(frozen=True)
class Champion:
    """The version that serves now, and its artifact in the local cache."""

    version: Version
    path: Path


@task(task_run_name="pull the champion", **NETWORK_RETRIES)
def pull_champion(folder: Path) -> Champion | None:
    """The champion of the model that params.yaml names; None where there is none yet."""
    registry, name = model_registry(folder)
    if CHAMPION not in registry.aliases(name):
        return None
    version = registry.resolve(name, CHAMPION)
    return Champion(version, registry.pull(name, version.version))


@task(task_run_name="publish", **NETWORK_RETRIES)
def publish(folder: Path) -> Version:
    """Publish the packed artifact and point the alias `challenger` at it. Published before, it stays as it is."""
    registry, name = model_registry(folder)
    version = registry.publish(folder / ARTIFACT, name, by=whoami())
    registry.promote(name, version.version, CHALLENGER, reason="published", by=whoami())
    get_run_logger().info("published %s", version.uri)
    return version


@task(task_run_name="judge")
def judge(folder: Path, champion: Champion | None) -> Judgement:
    """Compare the packed artifact with the champion on the same held-out records; see cascadexml.evaluation.judge."""
    compared = [str(champion.path)] if champion else []
    run_command([PYTHON, "-m", "cascadexml", "judge", "--verbose", *compared], folder)
    return Judgement.from_json(read_json(folder / JUDGEMENT / "judgement.json"))


@task(task_run_name="settle", **NETWORK_RETRIES)
def settle(
    folder: Path, version: Version, champion: Champion | None, judgement: Judgement, promote: Promote
) -> Outcome:
    """Keep the judgement in the registry, and make the version champion if the judgement says so.

    The alias moves only if it still names the champion that was judged against. The record comes first: done again
    after a failure, this task writes the same record and makes the same move.
    """
    registry, name = model_registry(folder)
    against = champion.version.version if champion else None
    promoted = promote == "always" or (promote == "if_better" and judgement.promote)
    reasons = [*judgement.reasons, *([f"promote was set to {promote!r}."] if promote != "if_better" else [])]
    outcome = _outcome(folder, version, against, promoted, reasons)
    record = to_json(outcome.to_json()).encode()
    key = f"{version.version}-against-{against or 'none'}-{hashlib.sha256(record).hexdigest()[:8]}"
    files = {each: folder / JUDGEMENT / each for each in ("judgement.json", "judgement.md")}
    registry.put_record(name, "judgements", key, {**files, "record.json": record})
    if promoted and registry.aliases(name).get(CHAMPION) != version.version:
        registry.promote(name, version.version, CHAMPION, reason=" ".join(reasons), by=whoami(), expect=against)
    return outcome


def _outcome(folder: Path, version: Version, against: str | None, promoted: bool, reasons: Sequence[str]) -> Outcome:
    registry, name = model_registry(folder)
    return Outcome(f"{registry.uri}/{name}@{version.version}", version.version, against, promoted, tuple(reasons))


def decide(folder: Path, champion: Champion | None, promote: Promote) -> Outcome:
    """Publish the packed artifact, judge it, promote it if it is better, and tell so on the run's page.

    Raises:
        ConfigError: the champion is a model of other data; nothing is published under its name.
    """
    if champion:
        check_comparable(open_artifact(champion.path), open_artifact(folder / ARTIFACT))
    version = publish(folder)
    if champion and champion.version.version == version.version:
        outcome = _outcome(folder, version, version.version, False, ["It is the champion already."])
        report_outcome(outcome, "")
        return outcome
    outcome = settle(folder, version, champion, judge(folder, champion), promote)
    report_outcome(outcome, (folder / JUDGEMENT / "judgement.md").read_text(encoding="utf-8"))
    return outcome


def read_json(path: Path) -> dict[str, Any]:
    """A report that a stage wrote."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def to_json(value: Any) -> str:
    """JSON as the reports hold it."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def link(path: Path, text: str) -> str:
    """Markdown for a report: a link where CASCADEXML_REPORTS_URL says that data/reports is served, else its path."""
    base, where = os.environ.get("CASCADEXML_REPORTS_URL"), path.resolve().as_posix()
    below = where.rpartition("/data/reports/")[2]
    return f"[{text}]({base.rstrip('/')}/{below})" if base else f"{text}: `{where}`"


def report_outcome(outcome: Outcome, tables: str) -> None:
    """Champion against challenger, what follows, and the published version's URI, on the run's page."""
    verdict = "is champion" if outcome.serves else f"does not replace the champion {outcome.against}"
    text = tables or " ".join(outcome.reasons)
    create_markdown_artifact(f"# {outcome.version} {verdict}\n\n{text}", key="judgement")
    create_markdown_artifact(f"`{outcome.uri}`", key="published-version", description="The version's URI")


def percent(value: float | None) -> str:
    """A share in percent, for tables."""
    return "" if value is None else f"{100 * value:.2f}"
