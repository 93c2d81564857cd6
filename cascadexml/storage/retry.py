"""Trying again, in one place: how often and after how long, for HTTP and S3 alike.

A single request that fails is tried again by the client that makes it (urllib3, boto3). What breaks while an answer's
bytes come in, and what only its caller can tell to be passing, is tried again here.
"""

import logging
import random
from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 6
BACKOFF_SECONDS = 0.5

T = TypeVar("T")

log = logging.getLogger(__name__)


class Interrupted(Exception):  # noqa: N818 — it is caught and tried again, and leaves storage as another error
    """The connection broke while bytes were coming in.

    Attributes:
        failures: how often in a row without a new byte in between; set when nothing is tried any more.
    """

    failures = 0


def resuming(read: Callable[[], T], position: Callable[[], int], attempts: int, backoff: float, name: str) -> T:
    """Call `read` until it is not interrupted, and give what it gives.

    The pause before a call is random, up to a bound that doubles with each failure in a row: `backoff` is the mean of
    the first. New bytes start the count anew.

    Args:
        read: goes on at `position()`.
        position: how many bytes there are so far.
        attempts: so many failures in a row without a new byte are the last.
        backoff: seconds.
        name: what is read, for the log.

    Raises:
        Interrupted: the last one, with `failures`.
    """
    from tenacity import RetryCallState, Retrying, retry_if_exception_type

    failures, furthest = 0, 0

    def count(state: RetryCallState) -> None:
        nonlocal failures, furthest
        here = position()
        failures, furthest = (1, here) if here > furthest else (failures + 1, furthest)
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, Interrupted):
            error.failures = failures

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        log.warning("%s broke off at byte %d (%s), trying again", name, position(), error)

    return Retrying(
        retry=retry_if_exception_type(Interrupted),
        after=count,
        stop=lambda _: failures >= attempts,
        wait=lambda _: random.uniform(0, 2 * backoff * 2 ** (failures - 1)),
        before_sleep=tell,
        reraise=True,
    )(read)


def until_passed(act: Callable[[], T], passing: Callable[[BaseException], bool], attempts: int, backoff: float) -> T:
    """Call `act` until it raises no error that passes by itself, and give what it gives; it pauses as `resuming` does.

    Raises:
        Exception: one that is not `passing`, or the last of `attempts`.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

    return Retrying(
        retry=retry_if_exception(passing),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=2 * backoff),
        reraise=True,
    )(act)
