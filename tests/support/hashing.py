"""Counting what is hashed: a model is verified once, not twice."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock


@dataclass
class Hashed:
    """What went through SHA-256: whole files by their names, and bytes that lay in memory."""

    files: Counter[str] = field(default_factory=Counter)
    in_memory: int = 0


@contextmanager
def hashed() -> Iterator[Hashed]:
    """Count what `hashlib` is given in this process meanwhile, by whoever asks the module for it by name."""
    seen = Hashed()
    whole_file, of_bytes = hashlib.file_digest, hashlib.sha256

    def file_digest(file: Any, *arguments: Any, **options: Any) -> Any:
        seen.files[str(file.name)] += 1
        return whole_file(file, *arguments, **options)

    def sha256(data: bytes = b"", **options: Any) -> Any:
        seen.in_memory += len(data)
        return of_bytes(data, **options)

    with mock.patch.multiple(hashlib, file_digest=file_digest, sha256=sha256):
        yield seen
