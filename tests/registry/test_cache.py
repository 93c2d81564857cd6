"""The cache's place, and the work that several threads share."""

import threading
from pathlib import Path

import pytest

from cascadexml.registry.cache import default_cache, meter
from cascadexml.storage.parallel import in_parallel


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CASCADEXML_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert default_cache() == tmp_path / ".cache" / "cascadexml"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "cascadexml"
    monkeypatch.setenv("CASCADEXML_CACHE", "~/models")
    assert default_cache() == tmp_path / "models"


def test_results_come_in_the_order_of_the_tasks_and_few_run_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()
    barrier = threading.Barrier(3)

    def task(n: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        # Three at a time, or this never ends.
        barrier.wait(30)
        with lock:
            running -= 1
        return n

    assert in_parallel((lambda n=n: task(n) for n in range(30)), 3) == list(range(30))  # type: ignore[misc]
    assert most == 3


def test_a_failure_ends_the_others_and_begins_no_more() -> None:
    stop, begun = threading.Event(), []

    def task(n: int) -> None:
        begun.append(n)
        if n == 1:
            raise OSError("disk full")
        assert stop.wait(30)

    with pytest.raises(OSError, match="disk full"):
        in_parallel((lambda n=n: task(n) for n in range(100)), 2, stop)  # type: ignore[misc]
    assert set(begun) == {0, 1}


def test_a_meter_counts_what_all_threads_tell() -> None:
    seen: list[tuple[str, int, int]] = []
    tell = meter("pull", 8000, lambda what, done, total, figures: seen.append((what, done, total)))
    in_parallel((lambda: [tell(1) for _ in range(1000)] for _ in range(8)), 8)
    assert seen == [("pull", n, 8000) for n in range(1, 8001)]
