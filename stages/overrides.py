"""`make run` PRESET=, SOURCE= and SET=: written into params.yaml, where DVC sees them, after they were checked."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cascadexml.config.overrides import apply
from cascadexml.errors import CascadeXMLError


def main(argv: Sequence[str] | None = None) -> int:
    """Give the exit code; an error of the user is one line on stderr and leaves params.yaml as it was."""
    parser = argparse.ArgumentParser(prog="python -m stages.overrides", description=__doc__)
    parser.add_argument("--preset", type=Path, metavar="FILE", help="laid over params.yaml, such as those in params/")
    parser.add_argument("--source", metavar="PATH_OR_URL", help="sets download.source")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="such as train.epochs=1")
    arguments = parser.parse_args(argv)
    try:
        apply(Path("params.yaml"), arguments.settings, arguments.preset, arguments.source)
    except CascadeXMLError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
