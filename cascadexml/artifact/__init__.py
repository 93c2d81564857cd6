"""A trained model on disk: packing, opening, model card, signature."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascadexml.artifact.artifact import Artifact, open_artifact
    from cascadexml.artifact.origin import Origin
    from cascadexml.artifact.packing import pack

__all__ = ["Artifact", "Origin", "open_artifact", "pack"]

_MODULES = {"Artifact": "artifact", "Origin": "origin", "open_artifact": "artifact", "pack": "packing"}


def __getattr__(name: str) -> Any:
    # PEP 562: a stage that follows an older model needs nothing of what packs one.
    if name in __all__:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
