"""`python -m flows.leash COMMAND…`: run a command that ends when whoever started it does, however that one ends.

The command gets a process group of its own. The leash reads its standard input, which its parent holds open: when the
parent closes it, or is killed and the kernel closes it, the whole group is ended. No signal needs to reach the leash,
so a flow that is cancelled, crashes or gets SIGKILL leaves no training behind.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and give its exit code; 128 + the signal's number when one ended it."""
    parser = argparse.ArgumentParser(prog="python -m flows.leash", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--grace", type=float, default=10.0, help="seconds from SIGTERM to SIGKILL: %(default)s")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    given = parser.parse_args(arguments)
    if not given.command:
        parser.error("a command is needed")
    return run(given.command, given.grace)


def run(command: Sequence[str], grace: float) -> int:
    """Run a command on a leash that this process's standard input holds; give its exit code."""
    # A stage must not read what is meant for the leash.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    threading.Thread(target=_end_with_parent, args=(child, grace), daemon=True).start()
    code = child.wait()
    # What the command started and left behind belongs to the group too.
    _signal_group(child.pid, signal.SIGKILL)
    return code if code >= 0 else 128 - code


def _end_with_parent(child: "subprocess.Popen[bytes]", grace: float) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    _signal_group(child.pid, signal.SIGTERM)
    try:
        child.wait(grace)
    except subprocess.TimeoutExpired:
        _signal_group(child.pid, signal.SIGKILL)


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main())
