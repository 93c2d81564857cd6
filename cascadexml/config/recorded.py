"""What an artifact keeps of the settings that made it."""

import dataclasses
from typing import Any

from cascadexml.config import Settings

# How a model is run and replaced later has no part in what it is.
OPERATION = ("drift", "retrain", "judge", "registry")


def recorded(settings: Settings) -> dict[str, Any]:
    """The settings as plain values, without the sections on how a model is run and replaced later."""
    return {name: value for name, value in dataclasses.asdict(settings).items() if name not in OPERATION}
