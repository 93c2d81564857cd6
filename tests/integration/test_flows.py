"""The flows as a team meets them: real Prefect server and worker, real S3 store, runs started through the server."""

import json
import lzma
import os
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.conftest import REPO, Project, environment
from tests.integration.prefect_api import PrefectApi

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900), pytest.mark.xdist_group("services")]

MODEL = "own-data"


@pytest.fixture(scope="module")
def api(finished: tuple[Project, str]) -> PrefectApi:
    """The server that `make run` started."""
    return PrefectApi.of(environment(finished[0]))


@pytest.fixture(scope="module")
def project(finished: tuple[Project, str]) -> Iterator[Project]:
    """The finished project; what flows change in it is taken back at the end."""
    yield finished[0]
    finished[0].sh("git checkout --quiet . && dvc checkout --quiet --force")


def registry(project: Project, *arguments: str) -> Any:
    """What `cascadexml registry … --json` says, run with the environment that `make up` wrote."""
    command = f"set -a; . .local/environment; set +a; cascadexml registry {' '.join(arguments)} --json"
    return json.loads(project.sh(command))


def records(project: Project, kind: str) -> dict[str, Any]:
    """All complete records of a kind in the registry, by key, read with boto3 alone."""
    code = (
        "import boto3, json\n"
        "s3 = boto3.client('s3')\n"
        f"prefix = 'models/{MODEL}/records/{kind}/'\n"
        "found = s3.list_objects_v2(Bucket='cascadexml', Prefix=prefix).get('Contents', [])\n"
        "keys = [o['Key'] for o in found if o['Key'].endswith('/record.json')]\n"
        "read = lambda key: json.loads(s3.get_object(Bucket='cascadexml', Key=key)['Body'].read())\n"
        "print(json.dumps({key.split('/')[-2]: read(key) for key in keys}))\n"
    )
    (project.root / ".local" / "records.py").write_text(code)
    found: dict[str, Any] = json.loads(
        project.sh("set -a; . .local/environment; set +a; python .local/records.py").splitlines()[-1]
    )
    return found


def incoming(period: str, n: int, field: str = "text") -> Iterator[dict[str, Any]]:
    """The first n records of a batch that came after the training's years, with `field` as their text."""
    file = REPO / "data" / "sample" / "incoming" / f"{period}.jsonl.xz"
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        for line in islice(lines, n):
            record = json.loads(line)
            yield {**record, "text": record[field]}


def write_batch(path: Path, batch: Iterator[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in batch), encoding="utf-8")
    return str(path)


def champion(project: Project) -> str:
    target: str = registry(project, "aliases", MODEL)["champion"]
    return target


def test_make_run_published_through_the_pipeline_flow(finished: tuple[Project, str], api: PrefectApi) -> None:
    project, printed = finished
    flow = api.post("flow_runs/filter", {"flows": {"name": {"any_": ["pipeline"]}}})[0]
    assert flow["state"]["type"] == "COMPLETED"
    assert f"s3://cascadexml/models/{MODEL}@{champion(project)}" in printed
    artifacts = api.artifacts(flow["id"])
    metrics = json.loads((project.root / "data" / "reports" / "metrics.json").read_text())
    assert f"{100 * metrics['test']['P@1']:.2f}" in json.dumps(artifacts["metrics"])
    assert "popularity" in json.dumps(artifacts["metrics"])
    assert champion(project) in artifacts["published-version"]
    assert "data_docs" in artifacts["reports"]
    assert "train" in api.log(flow["id"]) and "loss" in api.log(flow["id"])


def test_every_stages_outs_are_in_the_remote(project: Project) -> None:
    project.sh("set -a; . .local/environment; set +a; dvc status --cloud | grep -q 'in sync'")


def test_a_second_pipeline_run_publishes_nothing_new(project: Project, api: PrefectApi) -> None:
    before = registry(project, "list", MODEL), registry(project, "history", MODEL)
    run = api.start("pipeline/pipeline")
    assert api.wait(run)["type"] == "COMPLETED", api.log(run)[-3000:]
    assert (registry(project, "list", MODEL), registry(project, "history", MODEL)) == before


def test_a_poisoned_batch_is_quarantined_and_the_champion_serves_on(project: Project, api: PrefectApi) -> None:
    before = champion(project), len(api.runs("retraining/retraining"))
    garbage = ({**r, "text": "" if i % 5 < 2 else r["text"]} for i, r in enumerate(incoming("2018-2019", 100)))
    run = api.start("monitoring/monitoring", batch=write_batch(project.root / "own-batches" / "garbage.jsonl", garbage))
    state = api.wait(run)
    assert (state["type"], state["name"]) == ("COMPLETED", "Quarantined"), api.log(run)[-3000:]
    assert not any(key.startswith("garbage") for key in records(project, "batches"))
    verdict = next(v for key, v in records(project, "monitoring").items() if key.startswith("garbage"))
    assert verdict["reasons"]
    assert (champion(project), len(api.runs("retraining/retraining"))) == before


def test_drift_starts_a_retraining_whose_challenger_is_judged(project: Project, api: PrefectApi) -> None:
    """Without a hand on it: from a drifted batch to a verdict on a new version, and the champion answers."""
    for period in ("2022-2025", "2020-2021"):
        before = champion(project)
        done = {run["id"] for run in api.runs("retraining/retraining")}
        # Titles alone are a tenth as long as the texts: a drift that no small sample hides.
        batch = write_batch(project.root / "own-batches" / f"{period}.jsonl", incoming(period, 120, "title"))
        run = api.start("monitoring/monitoring", batch=batch)
        state = api.wait(run)
        assert (state["type"], state["name"]) == ("COMPLETED", "Drift"), api.log(run)[-3000:]
        deadline = time.monotonic() + 120
        while not (started := [each for each in api.runs("retraining/retraining") if each["id"] not in done]):
            assert time.monotonic() < deadline, "the event started no retraining"
            time.sleep(1)
        (retraining,) = started
        key = next(key for key in records(project, "batches") if key.startswith(period))
        assert retraining["parameters"]["batch"] == key
        state = api.wait(retraining["id"], 600)
        assert state["type"] == "COMPLETED" and state["name"] in ("Promoted", "ChampionStays"), api.log(
            retraining["id"]
        )[-4000:]
        outcome = next(r for r in records(project, "retrainings").values() if r["batch"] == key)
        assert outcome["promoted"] == (state["name"] == "Promoted")
        assert champion(project) == (outcome["version"] if outcome["promoted"] else before)
        pages = api.artifacts(retraining["id"])["reports"]
        assert f"/retraining/{outcome['key']}/validation/data_docs/index.html" in pages
        assert (project.root / "data/reports/retraining" / outcome["key"] / "metrics.json").is_file()
        assert not (project.root / "data/workspaces" / outcome["key"]).exists()
        judged = [
            key for key in records(project, "judgements") if key.startswith(f"{outcome['version']}-against-{before}")
        ]
        assert len(judged) == 1
        assert registry(project, "aliases", MODEL)["challenger"] == outcome["version"]
        answer = project.sh(
            "set -a; . .local/environment; set +a; "
            f"echo 'Computer security' | cascadexml predict s3://cascadexml/models/{MODEL}@champion"
        )
        assert json.loads(answer.splitlines()[-1])["predictions"]
        # The same batch once more is known: no event, so no retraining.
        count = len(api.runs("retraining/retraining"))
        again = api.start("monitoring/monitoring", batch=batch)
        assert api.wait(again)["type"] == "COMPLETED"
        if not outcome["promoted"]:
            assert "no event is sent" in api.log(again)
            assert len(api.runs("retraining/retraining")) == count


def test_a_cold_retraining_is_judged_too_and_not_repeated(project: Project, api: PrefectApi) -> None:
    run = api.start("retraining/retraining", cold=True)
    assert api.wait(run, 600)["name"] in ("Promoted", "ChampionStays"), api.log(run)[-4000:]
    assert "warm start" not in api.log(run)
    assert api.wait(api.start("retraining/retraining", cold=True))["name"] == "NothingNew"


def test_a_release_moves_the_champion_by_hand_and_back(project: Project, api: PrefectApi) -> None:
    before = champion(project)
    other = next(each["version"] for each in registry(project, "list", MODEL) if each["version"] != before)
    for parameters, expected in (
        ({"action": "promote", "version": other, "reason": "asked for by the indexers"}, other),
        ({"action": "roll_back", "reason": "complaints about chemistry"}, before),
    ):
        run = api.start("release/release", **parameters)
        assert api.wait(run)["type"] == "COMPLETED", api.log(run)[-3000:]
        assert champion(project) == expected
        assert parameters["reason"] in json.dumps(api.artifacts(run)["history"])
    assert api.wait(api.start("release/release", action="roll_back", reason=" "))["type"] == "FAILED"
    assert champion(project) == before


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


# Minutes of training, even with a tiny encoder.
LONG = ["train.epochs=1000", "train.checkpoint_minutes=0"]


def test_cancelling_stops_the_training_and_the_next_run_resumes(project: Project, api: PrefectApi) -> None:
    run = api.start("pipeline/pipeline", settings=LONG, promote="never")
    api.wait_for_line(run, "INFO train ")
    assert stage_processes(project)
    api.cancel(run)
    assert api.wait(run, 90)["type"] == "CANCELLED"
    deadline = time.monotonic() + 30
    while stage_processes(project) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not stage_processes(project)
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
    deadline = time.monotonic() + 30
    while stage_processes(project) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not stage_processes(project)
    project.sh("set -a; . .local/environment; set +a; cascadexml params set train.epochs=1 train.checkpoint_minutes=2")


@pytest.mark.parametrize("victim", ["Prefect server", "worker"])
def test_a_restart_in_the_middle_of_a_run_publishes_nothing_twice(
    project: Project, api: PrefectApi, victim: str
) -> None:
    run = api.start("pipeline/pipeline", settings=[f"seed={len(victim)}"], promote="never")
    api.wait_for_line(run, "INFO train ")
    services = json.loads((project.root / ".local" / "services.json").read_text())["services"]
    os.killpg(int(services[victim]["pid"]), signal.SIGKILL)
    time.sleep(2)
    project.sh("make up")
    state = api.wait(run, 400)
    versions = registry(project, "list", MODEL)
    assert len({version["version"] for version in versions}) == len(versions)
    if state["type"] != "COMPLETED":
        # What a kill leaves behind at the worst moment: DVC writes its lock in place.
        (project.root / "dvc.lock").write_bytes(b"")
        again = api.start("pipeline/pipeline", promote="never")
        assert api.wait(again, 400)["type"] == "COMPLETED"
