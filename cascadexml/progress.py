"""Progress of long work: a bar with rate and ETA on a terminal, plain lines in a log."""

import logging
import sys
import time
from collections.abc import Callable, Mapping

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Called with (what, done, total, figures): `figures` are shown as they are, such as {"loss": 0.12}."""

log = logging.getLogger(__name__)


def silent(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
    """Show nothing."""


def console_progress(every_seconds: float = 15.0) -> Progress:
    """A progress callback for a person: rich bars on a terminal, else a log line at most every `every_seconds`."""
    if sys.stderr.isatty():
        return _bars()
    return _lines(every_seconds)


def _text(figures: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _bars() -> Progress:
    from rich.console import Console

    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=Console(stderr=True),
    )
    tasks: dict[str, tuple[TaskID, float]] = {}
    tasks_started: dict[str, int] = {}

    def show(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if what not in tasks:
            bars.start()
            tasks[what] = (bars.add_task(what, total=total, rate="", figures=""), time.monotonic())
            tasks_started[what] = done
        task, start = tasks[what]
        rate = (done - tasks_started[what]) / max(time.monotonic() - start, 1e-9)
        bars.update(task, completed=done, total=total, rate=f"{rate:.3g}/s", figures=_text(figures))
        if done >= total:
            del tasks[what]
            if not tasks:
                bars.stop()

    return show


def _lines(every_seconds: float) -> Progress:
    started: dict[str, tuple[float, int]] = {}
    shown: dict[str, float] = {}

    def show(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        now = time.monotonic()
        start, first = started.setdefault(what, (now, done))
        if done < total and now - shown.get(what, start) < every_seconds:
            return
        shown[what] = now
        rate = (done - first) / max(now - start, 1e-9)
        left = (total - done) / rate if rate > 0 else 0.0
        log.info("%s %d/%d %.3g/s ETA %.0f s %s", what, done, total, rate, left, _text(figures))
        if done >= total:
            del started[what]
            shown.pop(what, None)

    return show
