"""Addresses as messages and logs may show them."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

_LACKING = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:|//")
"""How what was meant for an address begins; a single letter before a colon names a drive."""
_QUERY = re.compile(r"\?[^\s'\"]*")


def public_name(address: str) -> str:
    """An address without what may be secret: user, password, fragment and query (signed URLs carry a signature there).

    A local path is given back as it is. Of an address whose host cannot be told from a password, or that lacks a slash
    or its scheme, only what comes before.
    """
    scheme, found, rest = address.partition("://")
    if not found:
        lacking = _LACKING.match(address)
        return f"{lacking.group()}…" if lacking and not Path(address).exists() else address
    try:
        parts = urlsplit(address)
        readable = parts.port is None or "@" in parts.netloc or "@" not in rest
    except ValueError:
        readable = False
    if not readable:
        return f"{scheme}://…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def queries_kept_from_logs() -> Iterator[None]:
    """While this lasts, urllib3 logs addresses without their queries: its warnings of broken connections hold them."""
    loggers = [logging.getLogger(f"urllib3.{name}") for name in ("connectionpool", "util.retry", "poolmanager")]
    for each in loggers:
        each.addFilter(_without_query)
    try:
        yield
    finally:
        for each in loggers:
            each.removeFilter(_without_query)


def _without_query(record: logging.LogRecord) -> bool:
    record.msg, record.args = _QUERY.sub("?…", record.getMessage()), ()
    return True
