"""A Prefect server as its own HTTP interface shows it: start runs, wait for them, read their logs and artifacts."""

import time
import tomllib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

# Prefect's own client tries these again too: a server on SQLite gives 503 while its database is locked.
BUSY = Retry(total=6, backoff_factor=0.5, status_forcelist=(429, 502, 503), allowed_methods=None)
T = TypeVar("T")
ENDS = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
LAST_LINES = 30.0
"""Seconds that an ended run's last lines may take to the server."""


def until(ready: Callable[[], T], what: str = "not in time", seconds: float = 120) -> T:
    """Wait until `ready` gives something true, and give it."""
    deadline = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return found


@dataclass(frozen=True)
class PrefectApi:
    """The server at `url`, which ends in /api, and the `user:password` that it asks for."""

    url: str
    auth_string: str

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "PrefectApi":
        """The server that a process with the services' environment reaches."""
        profiles = tomllib.loads(Path(environment["PREFECT_PROFILES_PATH"]).read_text(encoding="utf-8"))["profiles"]
        return cls(environment["PREFECT_API_URL"], profiles["local"]["PREFECT_API_AUTH_STRING"])

    @cached_property
    def session(self) -> requests.Session:
        """A session that the server takes: with the password, and with a token against foreign pages."""
        session = requests.Session()
        session.mount("http://", HTTPAdapter(max_retries=BUSY))
        user, password = self.auth_string.split(":")
        session.auth = (user, password)
        session.headers["Prefect-Csrf-Client"] = str(uuid.uuid4())
        return session

    def renew_token(self) -> None:
        """Take a new token; each lives for an hour."""
        client = self.session.headers["Prefect-Csrf-Client"]
        self.session.headers["Prefect-Csrf-Token"] = self.get(f"csrf-token?client={client!s}")["token"]

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        answer = self.session.post(f"{self.url}/{path}", json=body, timeout=30)
        if answer.status_code == 403:
            self.renew_token()
            answer = self.session.post(f"{self.url}/{path}", json=body, timeout=30)
        assert answer.ok, f"{path} answered {answer.status_code}: {answer.text[:500]}"
        return answer.json() if answer.content else None

    def get(self, path: str) -> Any:
        answer = self.session.get(f"{self.url}/{path}", timeout=30)
        assert answer.ok, f"{path} answered {answer.status_code}: {answer.text[:500]}"
        return answer.json()

    def start(self, deployment: str, **parameters: Any) -> str:
        """Start a run of `flow/deployment`, as the button in the UI does; give its id."""
        found = self.get(f"deployments/name/{deployment}")
        return str(self.post(f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})["id"])

    def cancel(self, run: str) -> None:
        """Cancel a run, as the button in the UI does."""
        self.post(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})

    def state(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"flow_runs/{run}")["state"]
        return found

    def wait(self, run: str, seconds: float = 270) -> dict[str, Any]:
        """The state that a run ends in."""
        deadline = time.monotonic() + seconds
        while (state := self.state(run))["type"] not in ENDS:
            assert time.monotonic() < deadline, f"still {state['name']}:\n{self.log(run)[-4000:]}"
            time.sleep(0.5)
        return state

    def wait_for_line(self, run: str, text: str, seconds: float = 270) -> str:
        """The first line of a run's log with `text` in it.

        A run sends its log in batches, the last of them after its final state: an ended run is given time for it.
        """
        deadline = time.monotonic() + seconds
        last = None
        while True:
            if last is None and self.state(run)["type"] in ENDS:
                last = time.monotonic() + LAST_LINES
            log = self.log(run)
            if found := next((line for line in log.splitlines() if text in line), None):
                return found
            assert last is None or time.monotonic() < last, f"the run ended without {text!r}:\n{log[-4000:]}"
            assert time.monotonic() < deadline, f"no {text!r} in time:\n{log[-4000:]}"
            time.sleep(0.5)

    def log(self, run: str) -> str:
        """All of a run's log, its tasks' included."""
        lines: list[str] = []
        while True:
            body = {
                "logs": {"flow_run_id": {"any_": [run]}},
                "sort": "TIMESTAMP_ASC",
                "limit": 200,
                "offset": len(lines),
            }
            page = self.post("logs/filter", body)
            lines += [entry["message"] for entry in page]
            if len(page) < 200:
                return "\n".join(lines)

    def artifacts(self, run: str) -> dict[str, Any]:
        """The data of a run's artifacts by key."""
        found = self.post("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {each["key"]: each["data"] for each in found}

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of `flow/deployment` that have been started or wait to be, oldest first; not the scheduled ones."""
        found = self.get(f"deployments/name/{deployment}")
        body = {
            "flow_runs": {"deployment_id": {"any_": [found["id"]]}},
            "deployments": {"id": {"any_": [found["id"]]}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        return [run for run in self.post("flow_runs/filter", body) if not run["auto_scheduled"]]
