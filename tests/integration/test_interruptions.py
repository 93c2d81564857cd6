"""Runs that are cancelled, killed, or lose their server or worker: nothing goes on alone, and the next run resumes."""

import json
import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from cascadexml.registry import Registry
from tests.integration.conftest import MODEL, Project, environment, registry_of
from tests.integration.prefect_api import PrefectApi, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def api(served: Project) -> PrefectApi:
    return PrefectApi.of(environment(served))


@pytest.fixture(scope="module")
def registry(served: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_of(served, tmp_path_factory.mktemp("cache")) as opened:
        yield opened


def stage_processes(project: Project) -> list[int]:
    """The pids of stages that run in the project."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        try:
            if any("stages.train" in part for part in command) and process.cwd().startswith(str(project.root)):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# Minutes of training, even with a tiny encoder.
LONG = ["train.epochs=1000", "train.checkpoint_minutes=0"]


def test_cancelling_stops_the_training_and_the_next_run_resumes(served: Project, api: PrefectApi) -> None:
    run = api.start("pipeline/pipeline", settings=LONG, promote="never")
    api.wait_for_line(run, "INFO train ")
    assert stage_processes(served)
    api.cancel(run)
    assert api.wait(run, 90)["type"] == "CANCELLED"
    until(lambda: not stage_processes(served), "the training goes on", 30)
    again = api.start("pipeline/pipeline", promote="never")
    api.wait_for_line(again, "resuming at step")
    # And a SIGKILL of the flow's own process takes its training along, too.
    flows = [
        process
        for process in psutil.process_iter(["cmdline", "environ"])
        if (process.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID", "").replace("-", "") == again.replace("-", "")
        and "prefect" in " ".join(process.info["cmdline"] or [])
    ]
    assert flows
    for process in flows:
        process.send_signal(signal.SIGKILL)
    assert api.wait(again, 120)["type"] in ("CRASHED", "FAILED")
    until(lambda: not stage_processes(served), "the training goes on", 30)


def kill(project: Project, service: str) -> None:
    """SIGKILL a service and its group, and start it again."""
    found = json.loads((project.root / ".local" / "services.json").read_text())["services"][service]
    os.killpg(int(found["pid"]), signal.SIGKILL)
    until(lambda: has_ended(found["pid"]), f"the {service} does not end")
    project.sh("make up")


def test_restarts_in_the_middle_of_a_run_publish_nothing_twice(
    served: Project, api: PrefectApi, registry: Registry
) -> None:
    before = {version.version for version in registry.versions(MODEL)}
    moved_to = [move.target for move in registry.history(MODEL, "challenger")]
    run = api.start("pipeline/pipeline", settings=[*LONG, "seed=1"], promote="never")
    api.wait_for_line(run, "INFO train ")
    kill(served, "Prefect server")
    # The run outlives its server: what it says comes to the new one.
    told = len(api.log(run))
    until(lambda: len(api.log(run)) > told, "the run fell silent")
    assert stage_processes(served)
    kill(served, "worker")
    assert api.wait(run, 300)["type"] in ("CRASHED", "FAILED")
    until(lambda: not stage_processes(served), "the training goes on", 30)
    # What a kill leaves behind at the worst moment: DVC writes its lock in place.
    (served.root / "dvc.lock").write_bytes(b"")
    settings = ["train.epochs=1", "train.checkpoint_minutes=2"]
    again = api.start("pipeline/pipeline", settings=settings, promote="never")
    assert api.wait(again, 400)["type"] == "COMPLETED", api.log(again)[-4000:]
    published = {version.version for version in registry.versions(MODEL)} - before
    assert len(published) == 1
    assert [move.target for move in registry.history(MODEL, "challenger")] == [*moved_to, *published]
