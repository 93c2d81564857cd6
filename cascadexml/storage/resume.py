"""One remote object to one local file, from where an earlier attempt stopped.

What has come lies in a `.part` file, and beside it a note of the object's validator (ETag or Last-Modified). The rest
is appended as long as the server says that the object is the same one; a complete file that has not changed is not
fetched again.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cascadexml.errors import DataError
from cascadexml.progress import Progress
from cascadexml.storage import retry
from cascadexml.storage.retry import Interrupted, resuming

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stream:
    """The rest of a remote object from byte `start` on; `unchanged` when the complete local copy is still right."""

    start: int
    total: int | None
    validator: str | None
    blocks: Iterator[bytes]
    unchanged: bool = False


Open = Callable[[int, str | None, bool], Stream]
"""(start, validator, complete) → the bytes from `start` on, if the object still answers to `validator`, else all; with
`complete`, only if it has changed."""


def download(open_stream: Open, target: Path, state: Path, name: str, show: Progress) -> None:
    """Bring one object to `target`, trying again from where it stopped.

    Args:
        open_stream: asks the server.
        target: the file; it appears when it is whole.
        state: folder of the `.part` file and the note.
        name: of the object, for messages; without secrets.
        show: called with bytes done and in all.

    Raises:
        DataError: it broke off again and again without a byte in between.
    """
    state.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    part, note = state / f"{target.name}.part", state / f"{target.name}.json"
    done = 0

    def read() -> None:
        nonlocal done
        validator = json.loads(note.read_text())["validator"] if note.is_file() else None
        complete = target.is_file() and validator is not None and not part.exists()
        done = part.stat().st_size if part.is_file() and validator is not None else 0
        stream = open_stream(done, validator, complete)
        if stream.unchanged:
            log.info("%s has not changed since it was fetched", name)
            return
        done = stream.start
        with part.open("r+b" if done else "wb") as file:
            file.truncate(done)
            file.seek(done)
            note.write_text(json.dumps({"validator": stream.validator}))
            for block in stream.blocks:
                file.write(block)
                done += len(block)
                show(f"fetching {target.name}", done, stream.total or done + 1, {})
        if stream.total is not None and done != stream.total:
            raise Interrupted(f"{done} of {stream.total} bytes came")
        part.replace(target)
        show(f"fetching {target.name}", done, done, {})

    try:
        resuming(read, lambda: done, retry.ATTEMPTS, retry.BACKOFF_SECONDS, name)
    except Interrupted as error:
        raise DataError(f"{name} broke off {error.failures} times ({error}): run again later, it resumes.") from None
