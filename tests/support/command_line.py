"""The command line in this process, through click's own runner."""

from click.testing import CliRunner, Result

from cascadexml.cli import main


def cascadexml(*arguments: object) -> Result:
    """What `cascadexml ARGUMENTS` gives: `exit_code`, `stdout`, `stderr`; an exception that leaves it is raised."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
