"""The JSON schema of params.yaml, for editors: every key with its meaning, type, bounds and choices."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from cascadexml.config.knobs import default_of
from cascadexml.config.settings import Settings

TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def json_schema() -> dict[str, Any]:
    """The schema of a whole params.yaml, by JSON Schema 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "params.yaml of cascadexml",
        **_section(Settings),
    }


def _section(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    return {
        "type": "object",
        "description": " ".join((cls.__doc__ or "").split()),
        "properties": {
            field.name: _section(hints[field.name])
            if dataclasses.is_dataclass(hints[field.name])
            else _knob(field, hints[field.name])
            for field in fields
        },
        "required": [field.name for field in fields],
        "additionalProperties": False,
    }


def _knob(field: "dataclasses.Field[Any]", hint: Any) -> dict[str, Any]:
    default = default_of(field)
    return {
        "description": field.metadata["meaning"],
        **_type(hint, field.metadata),
        **({} if default is dataclasses.MISSING else {"default": default}),
    }


def _type(hint: Any, bounds: Mapping[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_type(arguments[0], bounds), {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _type(arguments[0], bounds)}
    found: dict[str, Any] = {"type": TYPES[hint]}
    if hint in (int, float):
        limits = {"minimum": bounds["low"], "maximum": bounds["high"]}
        found |= {side: bound for side, bound in limits.items() if bound is not None}
    return found
