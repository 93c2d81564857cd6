"""The services of one project together: what is started, what the user brings, how processes reach them."""

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from cascadexml.bundle import beside
from flows.local.processes import ServiceError, own_path
from flows.local.server import Reports, Server
from flows.local.service import Service, Site, last_line
from flows.local.store import REGISTRY, Store
from flows.local.worker import POOL, Worker

Report = Callable[[str], None]
CODE = Path(__file__).parents[2]


@dataclass(frozen=True)
class ServiceStatus:
    """One service: `state` is "running", "stopped", or "yours" if the user brings it; `url` is "" for the worker."""

    name: str
    state: str
    pid: int | None = None
    url: str = ""
    log: Path | None = None


def _silent(text: str) -> None:
    pass


class Services:
    """The local services of the project in `root`.

    Args:
        root: the project's root; `root/.local` holds all that the services write. `prefect.yaml` there is deployed.
        environ: the user's environment, which decides what is started; by default this process's.
        ports: preferred ports of S3 store, Prefect server and report server; others are taken when somebody listens
            there.
    """

    def __init__(
        self, root: Path, *, environ: Mapping[str, str] | None = None, ports: tuple[int, int, int] = (8333, 4200, 4300)
    ) -> None:
        self.site = Site(root.resolve(), dict(os.environ if environ is None else environ))
        self.store = Store(self.site, ports[0])
        self.server = Server(self.site, ports[1])
        self.reports = Reports(self.site, ports[2])
        self.worker = Worker(self.site)
        self.all: tuple[Service, ...] = (self.store, self.server, self.reports, self.worker)

    @property
    def root(self) -> Path:
        """The project's root."""
        return self.site.root

    def up(self, report: Report = _silent) -> None:
        """Start what is not running, wait until all of it works, and deploy the flows if they changed.

        Raises:
            ServiceError: something does not start; what this call had started is stopped again.
        """
        with self._alone(report):
            before = {service.name for service in self.all if service.running()}
            try:
                self._start_all(report)
            except BaseException:
                for service in reversed(self.all):
                    if service.name not in before:
                        service.stop()
                raise
            finally:
                self.site.ports.release()
            self._tell(report)

    def down(self, report: Report = _silent) -> None:
        """Stop what `up` started, and the flows that the worker runs; the data stay.

        Raises:
            ServiceError: something is still there after SIGKILL.
        """
        with self._alone(report):
            stopped = [service for service in reversed(self.all) if service.stop()]
            for service in stopped:
                report(f"{service.name}: stopped")
            if not stopped:
                report("Nothing is running.")
            for path in (self._written, *(path for service in self.all for path in service.private)):
                path.unlink(missing_ok=True)

    def status(self) -> list[ServiceStatus]:
        """What runs now, in the order of starting."""
        found = []
        for service in self.all:
            if service.is_users():
                found.append(ServiceStatus(service.name, "yours"))
            elif process := service.running():
                found.append(ServiceStatus(service.name, "running", process.pid, service.url, service.log))
            else:
                found.append(ServiceStatus(service.name, "stopped"))
        return found

    def environment(self) -> dict[str, str]:
        """The variables by which a process reaches the services that run now; none of them is a secret."""
        found: dict[str, str] = {}
        for service in self.all:
            if service.running() and not service.is_users():
                found |= service.environment()
        if found:
            # A proxy that the machine needs for the outside must not be asked for 127.0.0.1.
            found["NO_PROXY"] = "127.0.0.1,localhost"
        return {
            **found,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # A run whose process is gone is found by its silence (flows/automations.py).
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "DO_NOT_TRACK": "1",
        }

    def merged_environment(self) -> dict[str, str]:
        """The user's environment with `environment()` below it, and this Python's programs first on the path."""
        environ = self.site.environ
        return {**self.environment(), **environ, "PATH": own_path(environ)}

    @property
    def _written(self) -> Path:
        return self.site.local / "environment"

    def _start_all(self, report: Report) -> None:
        started = []
        for service in (self.store, self.server, self.reports):
            if service.is_users():
                report(f"{service.name}: not started, {service.own}.")
            elif service.running() and service.usable():
                report(f"{service.name}: already running, {service.url}")
            else:
                if service is self.server and not service.usable():
                    # It knows the password that was before, and so do its flows.
                    self.worker.stop()
                service.stop()
                service.start(self.merged_environment())
                started.append(service)
        for service in (self.store, self.server, self.reports):
            if not service.is_users() and (service.running() or service in started):
                service.wait()
        self._write_environment()
        self._deploy(report, fresh=self.server in started)
        self._start_worker(report)

    def _start_worker(self, report: Report) -> None:
        if self.worker.is_users():
            report(f"{self.worker.name}: not started, {self.worker.own}.")
            return
        endpoints = [self.store.url, self.server.api, self.reports.url]
        if self.worker.serves(endpoints):
            report(f"{self.worker.name}: already running, pool {POOL}")
        else:
            self.worker.stop()
            self.worker.start(self.merged_environment(), endpoints)
        self.worker.wait()

    def _deploy(self, report: Report, *, fresh: bool) -> None:
        """Deploy prefect.yaml, where there is one, unless this server has had just these files."""
        if not (self.root / "prefect.yaml").exists():
            return
        digest = hashlib.sha256(self.server.api.encode())
        for path in [self.root / "prefect.yaml", *sorted(self.root.glob("flows/**/*.py"))]:
            digest.update(path.read_bytes())
        if not fresh and self.site.state.get("deployed") == digest.hexdigest():
            return
        report("deploying the flows of prefect.yaml")
        # prefect.yaml's $PWD is the variable, which a change of folder alone leaves as it was.
        own = {"PWD": str(self.root), "PREFECT_LOGGING_COLORS": "false", "NO_COLOR": "1"}
        environment = self.merged_environment()
        own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CODE), environment.get("PYTHONPATH")]))
        log = self.site.new_log("deploy")
        with log.open("ab") as file:
            done = subprocess.run(
                [sys.executable, "-m", "flows.deployment"], env={**environment, **own}, cwd=self.root,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False,
            )  # fmt: skip
        if done.returncode:
            raise ServiceError(f"`python -m flows.deployment` failed ({last_line(log)}): see {log}.")
        self.site.state.put("deployed", digest.hexdigest())

    def _tell(self, report: Report) -> None:
        if not self.store.is_users():
            report(f"S3 endpoint      {self.store.url}, credentials in {self.store.credentials}")
        report(f"model registry   {self.site.environ.get('CASCADEXML_REGISTRY', REGISTRY)}")
        report(f"Prefect          {self.server.api.removesuffix('/api')}")
        if not self.server.is_users():
            report(f"  its login      the text between quotes behind PREFECT_API_AUTH_STRING in {self.server.login}")
        if not self.reports.is_users():
            report(f"reports          {self.reports.url}")
        report(f"logs             {self.site.local / 'logs'}")
        report('in your shell    eval "$(make -s env)"')
        report("to end           make down")

    def _write_environment(self) -> None:
        lines = [f"{key}={shlex.quote(value)}\n" for key, value in self.environment().items()]
        with beside(self._written) as new:
            new.write_text("".join(lines), encoding="utf-8")

    @contextmanager
    def _alone(self, report: Report) -> Iterator[None]:
        self.site.local.mkdir(mode=0o700, exist_ok=True)
        lock = filelock.FileLock(self.site.local / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            report("Another `make up` or `make down` is at work: waiting for it.")
            try:
                lock.acquire(timeout=300)
            except filelock.Timeout:
                raise ServiceError(
                    "Another `make up` or `make down` has been at work for 5 minutes: try again when it is done."
                ) from None
        try:
            yield
        finally:
            lock.release()
