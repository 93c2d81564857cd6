"""Extreme multi-label text classification with CascadeXML."""

from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascadexml.serving.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]

__version__ = metadata.version("cascadexml")


def __getattr__(name: str) -> Any:
    # PEP 562: torch takes seconds to import, which `cascadexml --help` should not pay for.
    if name in __all__:
        from cascadexml.serving import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
