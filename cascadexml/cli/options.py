"""What several commands have in common: options, and how examples stand in a help text."""

import json
import logging
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

COUNT = click.IntRange(min=1)
BATCH = click.IntRange(1, 2**16)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Write JSON instead of a table.")
ARTIFACT = click.argument("path", metavar="PATH")


def _log(context: click.Context, option: click.Parameter, verbose: bool) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)


VERBOSE = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    expose_value=False,
    callback=_log,
    help="Say on stderr what is being done.",
)


def with_model(command: Command) -> Command:
    """The options of a command that runs a model."""
    device = click.option("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto (default).")
    batch_size = click.option("--batch-size", type=BATCH, default=64, metavar="B", help="Texts at once (default 64).")
    return batch_size(device(command))


def examples(*lines: str) -> str:
    """An epilog that stands as it is, one example a line."""
    return "\b\nexamples:\n" + "".join(f"  {line}\n" for line in lines)


def print_json(value: object, default: Callable[[Any], Any] | None = None) -> None:
    """Write a value as JSON to stdout."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False, default=default))
