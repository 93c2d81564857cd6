"""The leash with real processes: what it runs ends with its parent, however that one ends."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from flows import leash

# A parent as a flow is one: it holds the leash's standard input open, and tells the pids that the command prints.
PARENT = """
import subprocess, sys
leashed = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, start_new_session=True)
leashed.wait()
"""
# A command that has a child of its own, and which passes over SIGTERM where it is told to.
COMMAND = """
import os, signal, subprocess, sys, time
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(300)
"""


def run_leashed(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command on a leash that is held to its end."""
    held, holder = os.pipe()
    try:
        return subprocess.run(
            [sys.executable, leash.__file__, *command], stdin=held, stdout=subprocess.PIPE, text=True, timeout=60
        )
    finally:
        os.close(held)
        os.close(holder)


@pytest.mark.parametrize(("code", "expected"), [("0", 0), ("3", 3)])
def test_the_exit_code_is_the_commands(code: str, expected: int) -> None:
    assert run_leashed(sys.executable, "-c", f"raise SystemExit({code})").returncode == expected


def test_a_command_that_a_signal_ends_gives_128_and_its_number() -> None:
    end = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run_leashed(sys.executable, "-c", end).returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("manner", ["willing", "deaf"])
def test_command_and_children_end_when_the_parent_is_killed(manner: str) -> None:
    short = [sys.executable, leash.__file__, "--grace", "1"]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *short, sys.executable, "-c", COMMAND, manner],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while any(map(_runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_runs, pids))


def test_what_a_command_leaves_behind_ends_with_it() -> None:
    leave = "import subprocess, sys; print(subprocess.Popen(['sleep', '300'], stdout=subprocess.DEVNULL).pid)"
    pid = int(run_leashed(sys.executable, "-c", leave).stdout)
    deadline = time.monotonic() + 30
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
