"""A registry used by processes of their own, which a test can kill in the middle.

They are forked from a server that has imported everything already, so that one starts in a fraction of a second.
"""

import multiprocessing
import os
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SMALLEST_PART = 5 << 20
"""S3 allows no smaller part, save the last; with it an artifact of a few MB goes up in parts."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["__main__", "cascadexml.registry", "cascadexml.artifact", "boto3", "filelock", "tests.support.registry_processes"]
)


def start(
    environment: Mapping[str, str], uri: str, cache: Path, settings: Mapping[str, Any], method: str, *arguments: Any
) -> tuple[BaseProcess, Connection]:
    """Call a method of a `Registry` in a process of its own; give it and where it will send `result_of` it."""
    here, there = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(
        target=_call, args=(there, dict(environment), uri, cache, dict(settings), method, arguments), daemon=True
    )
    process.start()
    there.close()
    return process, here


def result_of(connection: Connection, seconds: float = 60) -> tuple[str, str]:
    """("ok", what the method gave) or (the error's class, its message); ("lost", "") if the process died."""
    if not connection.poll(seconds):
        raise TimeoutError("the process neither answered nor ended")
    try:
        kind, text = connection.recv()
    except EOFError:
        return "lost", ""
    return kind, text


def _call(
    to: Connection,
    environment: dict[str, str],
    uri: str,
    cache: Path,
    settings: dict[str, Any],
    method: str,
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(environment)
    from cascadexml.config import RegistrySettings
    from cascadexml.errors import CascadeXMLError
    from cascadexml.registry import Registry
    from cascadexml.storage import multipart

    multipart.PART = SMALLEST_PART
    try:
        found = getattr(Registry(uri, settings=RegistrySettings(**settings), cache=cache), method)(*arguments)
    except CascadeXMLError as error:
        to.send((type(error).__name__, str(error)))
    else:
        to.send(("ok", str(getattr(found, "version", found))))
