"""The model registry in S3."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascadexml.registry.aliases import ANY, Move
    from cascadexml.registry.collect import Removed
    from cascadexml.registry.opening import open_model
    from cascadexml.registry.registry import Registry
    from cascadexml.registry.versions import Version

__all__ = ["ANY", "Move", "Registry", "Removed", "Version", "open_model"]

_MODULES = {
    "ANY": "aliases",
    "Move": "aliases",
    "Registry": "registry",
    "Removed": "collect",
    "Version": "versions",
    "open_model": "opening",
}


def __getattr__(name: str) -> Any:
    # PEP 562: who opens a folder by `open_model` needs nothing of what talks to a store.
    if name in __all__:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
