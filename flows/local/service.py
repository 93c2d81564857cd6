"""What all local services have in common: a process in a session of its own, its port, its log, its end."""

import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import psutil

from flows.local.ports import Ports
from flows.local.processes import ServiceError, end
from flows.local.state import State

MARK = "CASCADEXML_SERVICES"
"""In the environment of every service, and so of every flow that the worker starts: the `.local` it belongs to."""


@dataclass(frozen=True)
class Site:
    """The project that the services belong to, and the user's environment.

    Attributes:
        root: the project's root; the services write below `root/.local` alone.
        environ: the user's environment, which says what the user brings.
        ports: the ports that are being chosen.
    """

    root: Path
    environ: Mapping[str, str]
    ports: Ports = field(default_factory=Ports)

    @property
    def local(self) -> Path:
        """Where all that the services write lies."""
        return self.root / ".local"

    @property
    def state(self) -> State:
        """What was started before."""
        return State(self.local / "services.json")

    def log(self, name: str) -> Path:
        """Where a service's output goes."""
        return self.local / "logs" / f"{name.lower().replace(' ', '-')}.log"

    def new_log(self, name: str) -> Path:
        """An empty log; the one before ends in .1."""
        log = self.log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        log.touch()
        return log


class Service(ABC):
    """One of the local services.

    Args:
        site: the project.
        wanted: the port that it takes if nobody listens there.
    """

    name: ClassVar[str]
    own: ClassVar[str]
    """Why it is not started where the user brings it."""
    private: tuple[Path, ...] = ()
    """Files with secrets, which go when the services end."""

    def __init__(self, site: Site, wanted: int | None = None) -> None:
        self.site, self.wanted = site, wanted

    @abstractmethod
    def is_users(self) -> bool:
        """Whether the user's environment brings it; what `.local/environment` said before does not count."""

    @abstractmethod
    def start(self, environment: Mapping[str, str]) -> None:
        """Start it with the user's environment and what the services before it add."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until it works.

        Raises:
            ServiceError: it does not in time, or has ended.
        """

    def environment(self) -> dict[str, str]:
        """The variables by which other processes reach it; none of them is a secret."""
        return {}

    def usable(self) -> bool:
        """Whether one that runs can be reached: what it needs besides its process is there."""
        return True

    @property
    def url(self) -> str:
        """Its address; "" before it has a port."""
        port = self.site.state.port(self.name)
        return f"http://127.0.0.1:{port}" if port else ""

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.site.log(self.name)

    def running(self) -> psutil.Process | None:
        """Its process."""
        return self.site.state.running(self.name)

    def stop(self) -> bool:
        """End it; whether there was something to end.

        Raises:
            ServiceError: it is still there after SIGKILL.
        """
        return self.end(20)

    def end(self, seconds: float) -> bool:
        """End its process, by SIGKILL after `seconds`; whether there was one."""
        process = self.running()
        if process:
            end([process], self.name, seconds)
        self.site.state.forget(self.name)
        return process is not None

    def choose_port(self, *, twin: bool = False) -> int:
        """The port that it had before, else the wanted one, else another."""
        return self.site.ports.choose((self.site.state.port(self.name), self.wanted), twin=twin)

    def spawn(self, arguments: Sequence[str], environment: Mapping[str, str], cwd: Path) -> "subprocess.Popen[bytes]":
        """Start Python with these arguments."""
        own = {MARK: str(self.site.local), "PREFECT_LOGGING_COLORS": "false", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
        with self.site.new_log(self.name).open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                [sys.executable, *arguments], env={**environment, **own}, cwd=cwd,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def wait_until_answers(self, path: str, seconds: float) -> None:
        """Wait until GET of `path` gives 200."""
        url = self.url + path
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def answers() -> bool:
            with suppress(OSError), direct.open(url, timeout=2) as answer:
                return bool(answer.status == 200)
            return False

        self.wait_until(answers, seconds)

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait for a condition as long as the service runs.

        Raises:
            ServiceError: not within `seconds`, or the service has ended.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running():
                raise ServiceError(f"The {self.name} ended while starting ({last_line(self.log)}): see {self.log}.")
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"The {self.name} does not answer within {seconds:g} seconds ({last_line(self.log)}): "
                    f"see {self.log}; if it was running before, `make down` ends it."
                )
            time.sleep(0.2)


def last_line(log: Path) -> str:
    """What a service said last."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "its log is empty"
