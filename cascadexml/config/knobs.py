"""The fields of a section, and mappings of plain values read as sections, each wrong value refused by name."""

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from cascadexml.errors import ConfigError


def knob(
    default: Any = dataclasses.MISSING, *, meaning: str, low: float | None = None, high: float | None = None
) -> Any:
    """A field with its meaning and inclusive bounds, which for a list hold for each element.

    Without a default it must be given.
    """
    metadata = {"meaning": meaning, "low": low, "high": high}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def read(cls: type[Any], values: object, file: str, prefix: str = "", complete: bool = True) -> Any:
    """A section, with the sections in it, from what a YAML file held; `file` and `prefix` are for error messages.

    Raises:
        ConfigError: a key is unknown; a value has the wrong type, lies out of range, or is none of the choices; with
            `complete`, a key is not there.
    """
    kept = _read(cls, values, file, prefix)
    if complete and (missing := list(_missing(cls, kept, prefix))):
        more = f"; {len(missing) - 1} more keys are missing" if len(missing) > 1 else ""
        raise ConfigError(f"{file} lacks {missing[0]}{more}.")
    return _build(cls, kept)


def _read(cls: type[Any], values: object, file: str, prefix: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{file}: {prefix.rstrip('.') or 'the file'} must be a mapping, found {values!r}.")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)
            raise ConfigError(f"{file}: unknown key {prefix}{key}; the nearest known one is {prefix}{near[0]}.")
    kept = {}
    for key, value in values.items():
        if dataclasses.is_dataclass(hints[key]):
            kept[key] = _read(typing.cast(type[Any], hints[key]), value, file, f"{prefix}{key}.")
        else:
            kept[key] = _convert(hints[key], value, fields[key].metadata, f"{file}: {prefix}{key}")
    return kept


def _missing(cls: type[Any], kept: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """What to say of each key that is not there."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        where = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _missing(typing.cast(type[Any], hints[field.name]), kept.get(field.name, {}), where + ".")
        elif field.name not in kept:
            example = default_of(field)
            written = "" if example is dataclasses.MISSING else f", e.g. `{field.name}: {json.dumps(example)}`"
            yield f"{where} ({field.metadata['meaning']}): add it{written}"


def _build(cls: type[Any], kept: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(cls)
    return cls(
        **{
            key: _build(typing.cast(type[Any], hints[key]), value) if dataclasses.is_dataclass(hints[key]) else value
            for key, value in kept.items()
        }
    )


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """A field's default in code; `dataclasses.MISSING` where it must be given."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _convert(hint: Any, value: Any, bounds: Mapping[str, Any], where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(arguments[0], value, bounds, where)
    if origin is Literal:
        if value not in arguments:
            near = difflib.get_close_matches(str(value), arguments, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{where} is {value!r}, expected one of {', '.join(arguments)}; the nearest is {near!r}.")
        return value
    if origin is list:
        if not isinstance(value, list):
            raise ConfigError(f"{where} is {value!r}, expected a list.")
        return [_convert(arguments[0], v, bounds, f"{where}[{i}]") for i, v in enumerate(value)]
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-4 as a string, because it has no dot.
        try:
            value = float(value)
        except ValueError:
            raise ConfigError(f"{where} is {value!r}, expected a number.") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
        raise ConfigError(f"{where} is {value!r}, expected {names[hint]}.")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}, expected a finite number.")
    low, high = bounds.get("low"), bounds.get("high")
    if hint in (int, float) and not ((low is None or value >= low) and (high is None or value <= high)):
        span = f"at least {low}" if high is None else f"at most {high}" if low is None else f"from {low} to {high}"
        raise ConfigError(f"{where} is {value}, expected a number {span}.")
    return value
