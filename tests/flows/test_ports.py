"""The choice of ports, with processes that choose at the same time and have not yet bound what they chose."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.local.ports import Ports
from flows.local.processes import ServiceError
from tests.conftest import free_ports

REPO = Path(__file__).parents[2]
CHOOSE = """
import sys
from pathlib import Path
from flows.local.ports import Ports
ports = Ports(Path(sys.argv[1]))
sys.stdin.readline()
print(ports.choose([int(sys.argv[2])], twin=sys.argv[3] == "twin"), flush=True)
sys.stdin.read()
"""
Chooser = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def chooser(tmp_path: Path) -> Iterator[Chooser]:
    """Starts a process that chooses when it is told to, and holds its port until it ends."""
    started: list[subprocess.Popen[str]] = []

    def start(port: int, twin: bool = False) -> "subprocess.Popen[str]":
        arguments = [str(tmp_path / "ports"), str(port), "twin" if twin else "one"]
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", CHOOSE, *arguments],
                cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def choose(*processes: "subprocess.Popen[str]") -> list[int]:
    """What the processes choose, told to all of them before the first answer is read."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.stdout.readline() for process in processes if process.stdout is not None]
    return [int(answer) for answer in answers]


def test_processes_that_choose_at_once_get_ports_of_their_own(chooser: Chooser, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    processes = [chooser(port) for _ in range(4)]
    chosen = choose(*processes)
    assert len(set(chosen)) == 4
    assert chosen.count(port) == 1
    for process in processes:
        process.kill()
        process.wait()
    assert Ports(tmp_path / "ports").choose([port]) == port


def test_a_twin_is_held_as_well(chooser: Chooser, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    assert choose(chooser(port, twin=True)) == [port]
    ports = Ports(tmp_path / "ports")
    assert not ports.take(port)
    assert not ports.take(port + 10000)


def test_a_port_whose_twin_is_taken_is_not_held(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    ports = Ports(tmp_path / "ports")
    with socket.create_server(("127.0.0.1", port + 10000)):
        assert not ports.take(port, twin=True)
    assert Ports(tmp_path / "ports").take(port)


def test_who_listens_has_the_port_without_a_lock(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        assert Ports(tmp_path / "ports").choose([None, port]) != port
    assert Ports(tmp_path / "ports").choose([None, port]) == port


def test_released_ports_are_others(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    first, second = Ports(tmp_path / "ports"), Ports(tmp_path / "ports")
    assert first.take(port)
    assert not second.take(port)
    first.release()
    assert second.take(port)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ServiceError, match=r"file/ports cannot be written .*XDG_CACHE_HOME") as raised:
        Ports(tmp_path / "file" / "ports").choose([8333])
    assert "\n" not in str(raised.value)
