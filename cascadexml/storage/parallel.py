"""Several transfers at once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


def in_parallel(tasks: Iterator[Callable[[], T]], workers: int, stop: threading.Event | None = None) -> list[T]:
    """Run tasks in threads and give their results in order; tasks are drawn as threads become free.

    When one fails, `stop` is set, no other is begun, and its error is raised once the running ones have ended.
    """
    results: list[Future[T]] = []
    running: set[Future[T]] = set()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for task in tasks:
                if len(running) >= workers:
                    done, running = wait(running, return_when="FIRST_COMPLETED")
                    for future in done:
                        future.result()
                results.append(pool.submit(task))
                running.add(results[-1])
            for future in wait(running, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            if stop is not None:
                stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in results]
