"""What the local services need of the operating system: an end for processes, the way to programs, private files."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from cascadexml.bundle import beside
from cascadexml.errors import CascadeXMLError


class ServiceError(CascadeXMLError):
    """A local service does not start, answer or end."""


def end(processes: Sequence[psutil.Process], name: str, seconds: float) -> None:
    """SIGTERM to the processes and their groups, each once; SIGKILL to what is left after `seconds`."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = [process for process in processes if process.is_running()]
        leaders = set()
        for process in alive:
            with suppress(ProcessLookupError, PermissionError):
                if os.getpgid(process.pid) == process.pid:
                    leaders.add(process.pid)
                    os.killpg(process.pid, number)
        for process in alive:
            with suppress(ProcessLookupError, PermissionError):
                if os.getpgid(process.pid) not in leaders:
                    os.kill(process.pid, number)
        _, left = psutil.wait_procs(alive, timeout=seconds)
        if not left:
            return
    raise ServiceError(f"The {name} (process {left[0].pid}) does not end, even by SIGKILL: see `ps -p {left[0].pid}`.")


def parent_of(process: psutil.Process) -> int | None:
    """The pid of a process's parent; None if the process is gone."""
    try:
        return process.ppid()
    except psutil.Error:
        return None


def own_path(environ: Mapping[str, str] | None = None) -> str:
    """PATH with the programs of this Python's environment first."""
    path = (os.environ if environ is None else environ).get("PATH", os.defpath)
    return os.pathsep.join([str(Path(sys.executable).parent), path])


def write_private(path: Path, content: bytes) -> None:
    """Put a file at `path` that its owner alone reads."""
    with beside(path) as new, os.fdopen(os.open(new, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)
