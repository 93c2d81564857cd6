"""`make up` and `make down` for real: a store, a Prefect server and a worker on a project of its own.

The project's deployments are those of prefect.yaml; only the flows behind them are stand-ins.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
import requests
from botocore.exceptions import ClientError
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from flows.local.processes import ServiceError
from flows.local.services import Services
from flows.local.store import BUCKET
from flows.local.weed import CERTIFICATE
from tests.conftest import free_ports
from tests.integration.prefect_api import PrefectApi

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]
REPO = Path(__file__).resolve().parents[2]

STAND_IN = """
import json, os, subprocess, sys, time
from pathlib import Path
from prefect import flow

def note(name, **what):
    Path(f"{name}.new").write_text(json.dumps(what))
    Path(f"{name}.new").rename(f"{name}.json")

@flow
def pipeline(seconds: int = 0):
    own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    note("pipeline", pids=[os.getpid(), own.pid])
    try:
        time.sleep(seconds)
    finally:
        time.sleep(2)
        note("cleared")

@flow
def monitoring(): ...

@flow
def retraining(batch: str | None = None, reason: str = "schedule"):
    note("retraining", batch=batch, reason=reason, endpoint=os.environ["AWS_ENDPOINT_URL"])

@flow
def release(): ...
"""
EMIT = """
from prefect.events import emit_event
emit_event("cascadexml.drift.detected", resource={"prefect.resource.id": "cascadexml.model.eurlex"},
           payload={"batch": "march-0123456789ab"})
"""


def clean() -> dict[str, str]:
    """This process's environment without what names a store or a server."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PREFECT_", "CASCADEXML_"))}


@dataclass
class Running:
    """A project whose services two processes have started at the same time, and what these said."""

    services: Services
    said: list[str]

    @property
    def root(self) -> Path:
        return self.services.root

    @property
    def api(self) -> PrefectApi:
        return PrefectApi.of(self.services.environment())

    def s3(self) -> Any:
        """A client by the local environment alone, as any other process would make it."""
        environment = self.services.environment()
        session = boto3.Session(**self.keys())
        return session.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-east-1")

    def keys(self) -> dict[str, str]:
        lines = (self.root / ".local" / "credentials").read_text().splitlines()[1:]
        return dict(line.split(" = ") for line in lines)

    def pids(self) -> list[int | None]:
        return [each.pid for each in self.services.status()]

    def python(self, program: str) -> None:
        subprocess.run(
            [sys.executable, "-c", program],
            env=self.services.merged_environment(),
            cwd=self.root,
            check=True,
            timeout=60,
        )


def until(ready: Callable[[], Any], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.2)
    return found


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("services")
    (root / "standins.py").write_text(STAND_IN)
    lines = (REPO / "prefect.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    entrypoint = "entrypoint: flows/"
    changed = [
        f"{line.split(entrypoint)[0]}entrypoint: standins.py:{line.split(':')[-1]}" if entrypoint in line else line
        for line in lines
    ]
    (root / "prefect.yaml").write_text("".join(changed), encoding="utf-8")
    ports = free_ports(3)
    program = (
        "from pathlib import Path; from flows.local.services import Services; "
        f"Services(Path('.'), ports={tuple(ports)}).up(print)"
    )
    services = Services(root, environ=clean(), ports=(ports[0], ports[1], ports[2]))
    try:
        both = [
            subprocess.Popen(
                [sys.executable, "-c", program], cwd=root, env={**clean(), "PYTHONPATH": str(REPO)},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for _ in range(2)
        ]  # fmt: skip
        said = [process.communicate(timeout=300)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        yield Running(services, said)
    finally:
        services.down()


def test_two_starts_at_once_start_everything_once(running: Running) -> None:
    first, second = sorted(running.said, key=lambda text: text.count("already running"))
    assert first.count("already running") == 0
    assert second.count("already running") == 4
    assert [each.state for each in running.services.status()] == ["running"] * 4
    weeds = [
        process.pid
        for process in psutil.process_iter()
        if f"-dir={running.root / '.local' / 's3'}" in _arguments(process)
    ]
    assert weeds == running.pids()[:1]


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_the_store_takes_the_new_credentials_only(running: Running) -> None:
    running.s3().put_object(Bucket=BUCKET, Key="models/kept", Body=b"weights")
    program = (
        "import boto3; assert boto3.client('s3').get_object(Bucket='cascadexml', Key='models/kept')"
        "['Body'].read() == b'weights'"
    )
    running.python(program)
    wrong = boto3.client(
        "s3", endpoint_url=running.services.environment()["AWS_ENDPOINT_URL"], region_name="us-east-1",
        aws_access_key_id=running.keys()["aws_access_key_id"], aws_secret_access_key="0" * 40,
    )  # fmt: skip
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        wrong.get_object(Bucket=BUCKET, Key="models/kept")


def test_each_secret_is_in_one_file_that_only_its_owner_reads(running: Running) -> None:
    local = running.root / ".local"
    secrets = {
        local / "credentials": running.keys()["aws_secret_access_key"],
        local / "prefect-login.toml": running.api.auth_string.removeprefix("admin:"),
    }
    run = running.api.start("release/release")
    assert running.api.wait(run)["type"] == "COMPLETED"
    for file, secret in secrets.items():
        assert file.stat().st_mode & 0o777 == 0o600
        assert len(secret) == 40
        holding = [path for path in local.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
        assert holding == [file]
        assert not any(secret in " ".join(_arguments(process)) for process in psutil.process_iter())
        assert not any(secret in said for said in running.said)
        assert secret not in json.dumps(running.services.environment())


def test_the_servers_listen_on_loopback_alone(running: Running) -> None:
    open_ports = {
        connection.laddr.ip
        for pid in running.pids()
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert open_ports == {"127.0.0.1"}


def test_another_page_in_the_browser_may_not_call_the_server(running: Running) -> None:
    def allowed(origin: str) -> str | None:
        ask = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }
        return requests.options(f"{running.api.url}/deployments/filter", headers=ask, timeout=10).headers.get(
            "access-control-allow-origin"
        )

    own = running.api.url.removesuffix("/api")
    assert allowed(own) == own
    assert allowed("https://example.org") is None


def test_the_server_does_nothing_for_who_has_no_password(running: Running) -> None:
    api = running.api
    deployment = api.get("deployments/name/retraining/retraining")["id"]
    api.renew_token()
    token = {key: str(value) for key, value in api.session.headers.items() if key.startswith("Prefect-Csrf-")}
    user, password = api.auth_string.split(":")
    strangers: tuple[tuple[int, Any, dict[str, str]], ...] = (
        (403, None, {}),
        (403, None, {"Origin": "https://example.org"}),
        (403, (user, password), {}),
        (401, None, token),
        (401, None, {**token, "Host": "example.org"}),
        (401, (user, "0" * 40), token),
        (401, (user, ""), token),
    )
    asked = {
        f"deployments/{deployment}/create_flow_run": {"parameters": {"batch": "theirs"}},
        "variables/": {"name": "theirs", "value": "theirs"},
        "flows/": {"name": "theirs"},
    }
    for path, body in asked.items():
        for code, auth, headers in strangers:
            # No Content-Type, as a page may send it without asking: the server takes it for JSON.
            answer = requests.post(
                f"{api.url}/{path}", data=json.dumps(body).encode(), auth=auth, headers=headers, timeout=10
            )
            assert answer.status_code == code, (path, auth, headers)
    for path in ("flows/name/theirs", "variables/name/theirs", f"deployments/{deployment}"):
        assert requests.get(f"{api.url}/{path}", timeout=10).status_code == 401
    assert api.post("variables/count", {}) == 0
    assert api.post("flows/filter", {"flows": {"name": {"any_": ["theirs"]}}}) == []
    assert not [run for run in api.runs("retraining/retraining") if run["parameters"].get("batch") == "theirs"]

    # What carries events would start a retraining as well.
    socket = api.url.replace("http", "ws", 1) + "/events/in"
    with pytest.raises(InvalidStatus), connect(socket, proxy=None):
        pass
    with connect(socket, proxy=None, subprotocols=[Subprotocol("prefect")]) as connection:
        connection.send(json.dumps({"type": "auth", "token": f"{user}:"}))
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=10)


def test_drift_starts_a_retraining_with_the_events_batch(running: Running) -> None:
    running.python(EMIT)
    said = until(lambda: read(running.root / "retraining.json"))
    endpoint = running.services.environment()["AWS_ENDPOINT_URL"]
    assert said == {"batch": "march-0123456789ab", "reason": "drift", "endpoint": endpoint}


def test_schedules_make_runs(running: Running) -> None:
    def scheduled() -> set[str]:
        runs = running.api.post("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
        return {run["deployment_id"] for run in runs if run["auto_scheduled"]}

    expected = {running.api.get(f"deployments/name/{name}/{name}")["id"] for name in ("monitoring", "retraining")}
    until(lambda: scheduled() == expected)


def test_what_the_user_brings_is_not_started(running: Running, tmp_path: Path) -> None:
    own = {**running.services.environment(), "CASCADEXML_NO_WORKER": "1"}
    services = Services(tmp_path, environ={**clean(), **own})
    said: list[str] = []
    services.up(said.append)
    assert sum("not started" in line for line in said) == 4
    assert [each.state for each in services.status()] == ["yours"] * 4
    assert not (tmp_path / ".local" / "s3").exists()
    before = running.pids()
    services.down(said.append)
    assert said[-1] == "Nothing is running."
    assert running.pids() == before


def test_a_server_that_does_not_start_is_one_sentence_and_leaves_nothing_running(tmp_path: Path) -> None:
    home = tmp_path / ".local" / "prefect"
    home.mkdir(parents=True)
    (home / "prefect.db").write_bytes(b"no database" * 1000)
    ports = free_ports(3)
    environ = {**clean(), "CASCADEXML_NO_WORKER": "1"}
    services = Services(tmp_path, environ=environ, ports=(ports[0], ports[1], ports[2]))
    with pytest.raises(ServiceError, match="Prefect server ended while starting") as raised:
        services.up()
    assert str(tmp_path / ".local" / "logs" / "prefect-server.log") in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [each.state for each in services.status()] == ["stopped", "stopped", "stopped", "yours"]
    assert not [p for p in psutil.process_iter() if str(tmp_path) in " ".join(_arguments(p))]


def test_a_killed_worker_is_replaced_and_down_ends_all_but_the_data(running: Running) -> None:
    running.s3().put_object(Bucket=BUCKET, Key="models/kept", Body=b"weights")
    store, server, reports, worker = running.pids()
    psutil.Process(worker).kill()
    said: list[str] = []
    running.services.up(said.append)
    assert running.pids()[:3] == [store, server, reports]
    assert running.pids()[3] not in (None, worker)

    run = running.api.start("pipeline/pipeline", seconds=200)
    flow = until(lambda: read(running.root / "pipeline.json"))
    used, login = running.keys(), running.api.auth_string
    running.services.down(said.append)
    assert (running.root / "cleared.json").exists()
    assert not any(psutil.pid_exists(pid) for pid in (store, server, reports, *flow["pids"]))
    for name in ("credentials", "prefect-login.toml", "environment", f"s3/{CERTIFICATE}"):
        assert not (running.root / ".local" / name).exists()
    assert [each.state for each in running.services.status()] == ["stopped"] * 4

    running.services.up(said.append)
    assert running.keys() != used
    assert running.api.auth_string != login
    assert running.s3().get_object(Bucket=BUCKET, Key="models/kept")["Body"].read() == b"weights"
    assert running.api.state(run)["type"] == "CRASHED"
    (running.root / "retraining.json").unlink(missing_ok=True)
    running.python(EMIT)
    assert until(lambda: read(running.root / "retraining.json"))["reason"] == "drift"
