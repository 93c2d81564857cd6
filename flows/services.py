"""The services of one machine, all on 127.0.0.1: an S3 store, a Prefect server, a worker with the deployments.

`python -m flows.services up | down | status | env | run -- COMMAND…`; `make up` and `make down` call it. What is
running, on which ports and with which credentials lies in `.local/` below the project's root. The stores' data stay
there when the services end, so that the next start serves the same models and runs.

A service that the user brings is not started: the S3 store when AWS_ENDPOINT_URL or AWS credentials are set, the
Prefect server when PREFECT_API_URL is set. CASCADEXML_NO_WORKER=1 starts no worker.
"""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from cascadexml.errors import CascadeXMLError
from flows.local.processes import ServiceError
from flows.local.services import Services


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    services = Services(Path.cwd())
    try:
        if given.command == "up":
            services.up(_print)
        elif given.command == "down":
            services.down(_print)
        elif given.command == "status":
            for each in services.status():
                pid = f"process {each.pid}" if each.pid else ""
                _print(f"{each.name:16} {each.state:8} {each.url} {pid}".rstrip())
        elif given.command == "env":
            for key, value in services.environment().items():
                _print(f"export {key}={shlex.quote(value)}")
        else:
            argv = given.argv[1:] if given.argv[:1] == ["--"] else given.argv
            if not argv:
                parser.error("run needs a command: run -- COMMAND")
            _replace_this_process(argv, services.merged_environment())
    except CascadeXMLError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flows.services", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start what is not running, deploy the flows")
    commands.add_parser("down", help="stop what up started; the data stay")
    commands.add_parser("status", help="say what runs")
    commands.add_parser("env", help='print the services\' environment for a shell: eval "$(make -s env)"')
    run = commands.add_parser("run", help="run a command with the services' environment; your own variables win")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    return parser


def _replace_this_process(argv: list[str], environment: dict[str, str]) -> None:
    program = shutil.which(argv[0], path=environment["PATH"])
    if program is None:
        raise ServiceError(f"There is no program {argv[0]!r}.")
    os.execve(program, argv, environment)  # noqa: S606


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
