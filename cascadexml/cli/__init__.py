"""The command line: the group `cascadexml`, whose commands stand in a file each, and its exit codes.

0 all went well, 1 a failure (one line on stderr says which), 2 wrong usage, 130 interrupted.
"""

import io
import os
import sys
from typing import Any

import click

from cascadexml import __version__
from cascadexml.cli.evaluate import evaluate
from cascadexml.cli.export import export
from cascadexml.cli.info import info
from cascadexml.cli.judge import judge
from cascadexml.cli.params import params
from cascadexml.cli.predict import predict
from cascadexml.cli.registry import registry
from cascadexml.cli.train import train
from cascadexml.errors import CascadeXMLError


class _CommandLine(click.Group):
    """A group that turns what its commands raise into exit codes."""

    def main(self, *arguments: Any, **more: Any) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # What a terminal's encoding lacks is shown as an escape. So is half a surrogate pair in an id: in JSON as
            # such.
            sys.stdout.reconfigure(errors="backslashreplace")
        return super().main(*arguments, **more)

    def invoke(self, context: click.Context) -> Any:
        try:
            super().invoke(context)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader (`| head`) has all it wants. What is still buffered must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt:
            context.exit(130)
        except (CascadeXMLError, OSError) as error:
            click.echo(f"cascadexml: error: {' '.join(str(error).split())}", err=True)
            context.exit(1)


@click.group(
    "cascadexml",
    cls=_CommandLine,
    commands=[predict, evaluate, info, train, judge, export, registry, params],
    epilog="Each command has its own --help, with examples.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.version_option(__version__, prog_name="cascadexml", message="%(prog)s %(version)s")
def main() -> None:
    """Label texts with a trained CascadeXML artifact."""
