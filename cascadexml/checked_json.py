"""Values of JSON that somebody else may have written: each asked for by its key, of its type and within its bounds.

Whoever seals a manifest anew can write any value beside right digests. What is wrong is a ValueError that names the
key and says what was expected; who reads the file adds its name and what to do.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST = 2**31 - 1
"""The greatest whole number where nothing else bounds it."""
_DIGITS = 300
"""Of a whole number: longer ones are no float and no size of anything."""
_SHOWN = 60


def read_json(file: Path, *, finite: bool = True) -> Any:
    """What a JSON file holds, of text that can be written.

    Args:
        file: a regular file.
        finite: refuse numbers that are infinite or NaN, which Python's JSON knows.

    Raises:
        OSError: it is missing, or no regular file: a pipe would be waited for without end.
        ValueError: it is no such JSON.
    """
    if file.exists() and not file.is_file():
        raise OSError(f"{file.name} is no regular file")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None
    return parse_json(text, finite=finite)


def parse_json(text: str, *, finite: bool = True) -> Any:
    """As of `read_json`, from text."""
    numbers: dict[str, Any] = {"parse_constant": _refuse, "parse_float": _float} if finite else {}
    try:
        content = json.loads(text, parse_int=_int, **numbers)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            # Half a surrogate pair could not be shown, nor compared with a label's id.
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return content


def shown(value: object) -> str:
    """A value in a message, not at length."""
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def object_of(content: object, key: str | None = None) -> Mapping[str, Any]:
    """A JSON object: the value of a key, or the content itself."""
    found = content if key is None else _value(content, key)
    if not isinstance(found, Mapping):
        raise ValueError(f"{key or 'it'} is {shown(found)}, expected an object")
    return found


def list_of(content: object, key: str) -> list[Any]:
    """The value of a key, a list."""
    found = _value(content, key)
    if not isinstance(found, list):
        raise ValueError(f"{key} is {shown(found)}, which is no list")
    return found


def strings_of(content: object, key: str) -> list[str]:
    """The value of a key, a list of strings."""
    found = list_of(content, key)
    for value in found:
        if not isinstance(value, str):
            raise ValueError(f"{key} is no list of strings: it holds {shown(value)}, which is no string")
    return found


def read_strings(file: Path) -> list[str]:
    """The list of strings that a JSON file holds; raises OSError or ValueError where it does not."""
    return strings_of({file.name: read_json(file)}, file.name)


def text_of(content: object, key: str) -> str:
    """The value of a key, a string."""
    found = _value(content, key)
    if not isinstance(found, str):
        raise ValueError(f"{key} is {shown(found)}, expected a string")
    return found


def whole(content: object, key: str, low: int = 0, high: int = MOST) -> int:
    """The value of a key, a whole number from `low` to `high`."""
    found = _value(content, key)
    if type(found) is not int or not low <= found <= high:
        raise ValueError(f"{key} is {shown(found)}, expected a whole number from {low} to {high}")
    return found


def wholes(content: object, key: str, low: int = 0, high: int = MOST) -> list[int]:
    """The value of a key, a list of whole numbers from `low` to `high`."""
    found = list_of(content, key)
    for value in found:
        whole({key: value}, key, low, high)
    return found


def number(content: object, key: str, low: float = -math.inf, high: float = math.inf) -> float:
    """The value of a key, a finite number from `low` to `high`."""
    found = _value(content, key)
    if type(found) not in (int, float) or not math.isfinite(found) or not low <= found <= high:
        span = "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
        raise ValueError(f"{key} is {shown(found)}, expected a number{span}{' and none below 0' if low == 0 else ''}")
    return float(found)


def _value(content: object, key: str) -> Any:
    if not isinstance(content, Mapping):
        raise ValueError(f"it is {shown(content)}, expected an object with {key}")
    if key not in content:
        raise ValueError(f"{key} is missing")
    return content[key]


def _refuse(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number")


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"it holds {digits[:_SHOWN]}, which is beyond any number")
    return value


def _int(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"it holds a whole number of {len(digits)} digits")
    return int(digits)
