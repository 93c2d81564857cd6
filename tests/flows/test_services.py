"""The local services without starting any: what counts as running, whose variables win, what prefect.yaml promises."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.local.processes import ServiceError
from flows.local.services import Services
from flows.local.weed import start_store
from tests.conftest import free_ports


def cli(root: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`python -m flows.services` in a project that has no code of its own."""
    repo = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-m", "flows.services", *arguments],
        cwd=root, env={**clean(), "PYTHONPATH": str(repo), **environ}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def clean() -> dict[str, str]:
    """This process's environment without what names a store or a server."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PREFECT_", "CASCADEXML_"))}


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def remember(root: Path, process: subprocess.Popen[bytes], started: float) -> None:
    entry = {"pid": process.pid, "started": started, "command": ["weed"]}
    (root / ".local").mkdir()
    state = {"ports": {"S3 store": 8333}, "services": {"S3 store": entry}}
    (root / ".local" / "services.json").write_text(json.dumps(state))


def test_down_when_nothing_runs_says_so(tmp_path: Path) -> None:
    done = cli(tmp_path, "down")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Nothing is running.\n", "")
    assert [each.state for each in Services(tmp_path, environ=clean()).status()] == ["stopped"] * 4


def test_the_remembered_process_is_running_and_down_ends_it(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    remember(tmp_path, sleeper, psutil.Process(sleeper.pid).create_time())
    services = Services(tmp_path, environ=clean())
    assert services.status()[0].pid == sleeper.pid
    assert services.environment()["AWS_ENDPOINT_URL"] == "http://127.0.0.1:8333"
    services.down()
    assert not psutil.pid_exists(sleeper.pid)
    assert services.status()[0].state == "stopped"


def test_a_process_that_took_over_a_pid_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    remember(tmp_path, sleeper, psutil.Process(sleeper.pid).create_time() - 3600)
    services = Services(tmp_path, environ=clean())
    said: list[str] = []
    assert services.status()[0].state == "stopped"
    assert "AWS_ENDPOINT_URL" not in services.environment()
    services.down(said.append)
    assert said == ["Nothing is running."]
    assert sleeper.poll() is None


@pytest.mark.parametrize("own", ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"])
def test_a_store_of_ones_own_is_not_mixed_with_the_local_one(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], own: str
) -> None:
    remember(tmp_path, sleeper, psutil.Process(sleeper.pid).create_time())
    services = Services(tmp_path, environ={**clean(), own: "mine"})
    assert services.status()[0].state == "yours"
    assert not [key for key in services.environment() if key.startswith("AWS_")]
    assert services.merged_environment()[own] == "mine"


def test_what_make_env_gave_is_not_taken_for_the_users_own(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    remember(tmp_path, sleeper, psutil.Process(sleeper.pid).create_time())
    given = Services(tmp_path, environ=clean()).environment()
    again = Services(tmp_path, environ={**clean(), **given})
    assert again.status()[0].state == "running"
    assert again.environment() == given


def test_run_gives_the_commands_own_exit_code_and_the_users_variables_win(tmp_path: Path) -> None:
    shown = "os.environ['DO_NOT_TRACK'], os.environ['PREFECT_FLOWS_HEARTBEAT_FREQUENCY']"
    program = f"import os, sys; print({shown}); sys.exit(7)"
    done = cli(tmp_path, "run", "--", "python", "-c", program, PREFECT_FLOWS_HEARTBEAT_FREQUENCY="45")
    assert (done.returncode, done.stdout) == (7, "1 45\n")


def test_run_of_an_unknown_program_is_one_sentence(tmp_path: Path) -> None:
    done = cli(tmp_path, "run", "--", "no-such-program")
    assert (done.returncode, done.stderr) == (1, "error: There is no program 'no-such-program'.\n")


def test_a_damaged_state_file_is_one_sentence_that_names_it(tmp_path: Path) -> None:
    (tmp_path / ".local").mkdir()
    (tmp_path / ".local" / "services.json").write_text('{"ports": {')
    for command in ("up", "down", "status"):
        done = cli(tmp_path, command)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {tmp_path / '.local' / 'services.json'} is no JSON")
        assert done.stderr.count("\n") == 1


def test_a_missing_store_program_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServiceError, match="make setup"):
        start_store(tmp_path / "s3", free_ports(5), "key", "secret", log=tmp_path / "log")


def deployments(repo_root: Path) -> list[dict[str, Any]]:
    read: dict[str, Any] = yaml.safe_load((repo_root / "prefect.yaml").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = read["deployments"]
    return found


def test_prefect_yaml_names_flows_and_parameters_that_exist(repo_root: Path) -> None:
    for deployment in deployments(repo_root):
        file, function = deployment["entrypoint"].split(":")
        tree = ast.parse((repo_root / file).read_text(encoding="utf-8"))
        (flow,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
        arguments = {each.arg for each in (*flow.args.args, *flow.args.kwonlyargs)}
        given = [deployment, *deployment.get("triggers", []), *deployment.get("schedules", [])]
        assert {key for each in given for key in each.get("parameters", {})} <= arguments
