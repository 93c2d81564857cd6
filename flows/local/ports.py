"""Ports of 127.0.0.1 that two projects which start at the same time do not both take."""

import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path

import filelock

from flows.local.processes import ServiceError


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of 127.0.0.1."""
    with socket.socket() as one, socket.socket() as other:
        # What was closed a moment ago is free, hence the option. With it, macOS lets one bind beside a wildcard.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
        return other.connect_ex(("127.0.0.1", port)) != 0


class Ports:
    """Ports that this process has chosen and that a server will listen on in a moment.

    From the choice until the server listens, others see the port as free. So each port has a file, locked by the
    process that chose it until `release`, or until that process ends, however it does.

    Args:
        folder: where the locks lie, one for all projects of a user; by default below the user's cache folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        self.folder = folder or cache / "cascadexml" / "ports"
        self._held: dict[int, filelock.BaseFileLock] = {}

    def choose(self, wanted: Iterable[int | None], *, twin: bool = False) -> int:
        """The first of `wanted` that is free, else one between 10000 and 20000; it is held.

        Args:
            wanted: ports in order of preference; None is passed over.
            twin: the port + 10000 must be free as well (SeaweedFS puts its gRPC there); both are held.

        Raises:
            ServiceError: the locks' folder cannot be written.
        """
        for port in wanted:
            if port and self.take(port, twin=twin):
                return port
        while True:
            port = 10000 + secrets.randbelow(10000)
            if self.take(port, twin=twin):
                return port

    def take(self, port: int, *, twin: bool = False) -> bool:
        """Hold a port if it is free and nobody else holds it; with `twin` port + 10000 too, or neither."""
        taken: list[int] = []
        for each in (port, port + 10000) if twin else (port,):
            if not self._take(each):
                for other in taken:
                    self._held.pop(other).release()
                return False
            taken.append(each)
        return True

    def release(self) -> None:
        """Let go of all ports: what was to listen there does."""
        for lock in self._held.values():
            lock.release()
        self._held.clear()

    def _take(self, port: int) -> bool:
        if port in self._held:
            return False
        lock = filelock.FileLock(self.folder / f"{port}.lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return False
        except OSError as error:
            raise ServiceError(
                f"{self.folder} cannot be written ({error.strerror or error}): mend it, or set XDG_CACHE_HOME."
            ) from None
        if not is_free(port):
            lock.release()
            return False
        self._held[port] = lock
        return True
