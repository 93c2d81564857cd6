"""What is tried again, how often and after how long."""

import logging
from collections.abc import Callable

import pytest

from cascadexml.storage.retry import Interrupted, resuming, until_passed


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was slept between attempts; nothing sleeps."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


def reader(positions: list[int]) -> tuple[Callable[[], str], Callable[[], int], list[int]]:
    """A read that breaks off at each of the positions and then ends, the position it is at, and where it was begun."""
    here, begun = [0], []

    def read() -> str:
        begun.append(here[0])
        if len(begun) > len(positions):
            return "whole"
        here[0] = positions[len(begun) - 1]
        raise Interrupted("reset")

    return read, lambda: here[0], begun


def test_it_goes_on_while_new_bytes_come_and_the_pauses_start_anew(pauses: list[float]) -> None:
    read, position, begun = reader([10, 10, 10, 20, 20, 30])
    assert resuming(read, position, attempts=4, backoff=0.5, name="x") == "whole"
    assert begun == [0, 10, 10, 10, 20, 20, 30]
    bounds = [1, 2, 4, 1, 2, 1]
    assert all(0 <= pause <= bound for pause, bound in zip(pauses, bounds, strict=True))


def test_it_ends_after_so_many_failures_without_a_new_byte(
    pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    read, position, begun = reader([10, 10, 5, 10, 10, 10])
    with caplog.at_level(logging.WARNING), pytest.raises(Interrupted, match="reset") as caught:
        resuming(read, position, attempts=4, backoff=0.5, name="s3://bucket/key")
    assert caught.value.failures == len(begun) == 4
    assert len(pauses) == 3
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"s3://bucket/key broke off at byte {n} (reset), trying again" for n in (10, 10, 5)]


def test_pauses_are_random_and_their_mean_is_the_backoff_and_its_doubles(pauses: list[float]) -> None:
    for _ in range(400):
        read, position, _ = reader([0, 0])
        resuming(read, position, attempts=3, backoff=0.5, name="x")
    assert sum(pauses[::2]) / 400 == pytest.approx(0.5, abs=0.1)
    assert sum(pauses[1::2]) / 400 == pytest.approx(1.0, abs=0.2)


def test_what_is_no_interruption_is_not_tried_again(pauses: list[float]) -> None:
    asked = []

    def read() -> None:
        asked.append(1)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        resuming(read, lambda: 0, attempts=4, backoff=0.5, name="x")
    assert (asked, pauses) == ([1], [])


@pytest.mark.parametrize(("conflicts", "attempts"), [(0, 1), (3, 4), (10, 5)])
def test_a_conflict_is_tried_again_until_it_has_passed(pauses: list[float], conflicts: int, attempts: int) -> None:
    asked = []

    def put() -> str:
        asked.append(1)
        if len(asked) <= conflicts:
            raise ValueError("conflict")
        return "written"

    def run() -> str:
        return until_passed(put, lambda error: str(error) == "conflict", attempts, backoff=0.05)

    if conflicts < attempts:
        assert run() == "written"
    else:
        with pytest.raises(ValueError, match="conflict"):
            run()
    assert len(asked) == min(conflicts + 1, attempts)
    assert all(pause <= 0.1 * 2**n for n, pause in enumerate(pauses))


def test_another_error_than_a_conflict_is_not_tried_again(pauses: list[float]) -> None:
    def put() -> None:
        raise ValueError("denied")

    with pytest.raises(ValueError, match="denied"):
        until_passed(put, lambda error: str(error) == "conflict", 5, backoff=0.05)
    assert pauses == []
