"""What was started for a project, on which ports, and whether it still runs: `.local/services.json`."""

import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cascadexml.bundle import beside
from flows.local.processes import ServiceError


class State:
    """The file in which one `make up` tells the next what it started.

    Args:
        path: the file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, key: str, default: Any = None) -> Any:
        """What was put under a key."""
        return self._read().get(key, default)

    def put(self, key: str, value: Any) -> None:
        """Keep a value that JSON knows."""
        self._write({**self._read(), key: value})

    def port(self, name: str) -> int | None:
        """The port that a service listens on, or did when it last ran."""
        found: int | None = self._read()["ports"].get(name)
        return found

    def entry(self, name: str) -> dict[str, Any] | None:
        """What was remembered of a service that was started and not stopped since."""
        found: dict[str, Any] | None = self._read()["services"].get(name)
        return found

    def remember(self, name: str, process: "subprocess.Popen[bytes]", port: int | None, **more: Any) -> None:
        """Keep which process a service is, and its port."""
        state = self._read()
        with suppress(psutil.NoSuchProcess):
            state["services"][name] = {
                "pid": process.pid,
                "started": psutil.Process(process.pid).create_time(),
                "command": process.args,
                **more,
            }
        if port is not None:
            state["ports"][name] = port
        self._write(state)

    def forget(self, name: str) -> None:
        """A service does not run any more; its port stays known, for the next start."""
        state = self._read()
        if state["services"].pop(name, None):
            self._write(state)

    def running(self, name: str) -> psutil.Process | None:
        """The process of a service, if it is the one that was started: a pid may belong to another by now."""
        entry = self.entry(name)
        if entry is None:
            return None
        try:
            process = psutil.Process(entry["pid"])
            same = abs(process.create_time() - entry["started"]) < 2
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def pids(self) -> dict[str, int]:
        """The services that run, each with its pid."""
        found = {name: self.running(name) for name in self._read()["services"]}
        return {name: process.pid for name, process in found.items() if process}

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"ports": {}, "services": {}}
        except ValueError:
            raise ServiceError(
                f"{self.path} is no JSON: end the services by hand (`ps`) and remove that file."
            ) from None
        return found

    def _write(self, state: Mapping[str, Any]) -> None:
        with beside(self.path) as new:
            new.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
