"""The local worker, and the flows that it runs as processes of their own."""

import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil

from flows.local.processes import end, parent_of
from flows.local.service import MARK, Service

POOL = "cascadexml"


class Worker(Service):
    """A Prefect worker of the type process, in the project's root."""

    name = "worker"
    own = "CASCADEXML_NO_WORKER is set"

    def is_users(self) -> bool:
        """Whether CASCADEXML_NO_WORKER says that there is one elsewhere."""
        return self.site.environ.get("CASCADEXML_NO_WORKER", "") not in ("", "0")

    def start(self, environment: Mapping[str, str], endpoints: Sequence[str] = ()) -> None:
        """Start it; it and its flows keep the endpoints that they are started with."""
        command = ["-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process",
                   "--name", socket.gethostname()]  # fmt: skip
        # A server on loopback may be asked more often than every 10 seconds: runs begin as soon as they are due.
        process = self.spawn(command, {"PREFECT_WORKER_QUERY_SECONDS": "2", **environment}, self.site.root)
        self.site.state.remember(self.name, process, None, endpoints=list(endpoints))

    def serves(self, endpoints: Sequence[str]) -> bool:
        """Whether it runs, and was started with these endpoints."""
        entry = self.site.state.entry(self.name) or {}
        return self.running() is not None and entry.get("endpoints") == list(endpoints)

    def wait(self) -> None:
        """Wait until the server knows it."""
        self.wait_until(lambda: " started!" in self.log.read_text(errors="replace"), 120)

    def stop(self) -> bool:
        """End it and its flows, these first, so that they can still tell the server of their end."""
        process = self.running()
        flows = self._marked(but=process)
        # A flow clears up after itself when it gets SIGTERM; what it leaves behind is ended below. The worker comes
        # second: its end would take from its flows the way to report theirs.
        pids = {flow.pid for flow in flows}
        end([flow for flow in flows if parent_of(flow) not in pids], "flow", 25)
        end([process] if process else [], self.name, 20)
        if process or flows:
            end(self._marked(), "flow", 5)
        self.site.state.forget(self.name)
        return bool(process or flows)

    def _marked(self, but: psutil.Process | None = None) -> list[psutil.Process]:
        """The worker and all that it started, also what outlived it; neither this process nor its parents."""
        keep = {pid for name, pid in self.site.state.pids().items() if name != self.name}
        keep |= {but.pid} if but else set()
        this = psutil.Process()
        keep |= {this.pid, *(parent.pid for parent in this.parents())}
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid not in keep and process.environ().get(MARK) == str(self.site.local):
                    found.append(process)
        return found
