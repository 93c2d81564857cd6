"""Work in threads, results in order: SciPy's and NumPy's large operations let other threads run."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = min(8, os.cpu_count() or 1)

S = TypeVar("S")
T = TypeVar("T")


def in_threads(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """The results of `work` on each item, in order; the first error is raised."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(work, items)
