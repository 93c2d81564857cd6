"""Extreme multi-label text classification with CascadeXML."""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascadexml.estimator.classifier import CascadeXMLClassifier
    from cascadexml.serving.predictor import Prediction, Predictor

__all__ = ["CascadeXMLClassifier", "Prediction", "Predictor"]

_HOMES = {
    "CascadeXMLClassifier": "cascadexml.estimator.classifier",
    "Prediction": "cascadexml.serving.predictor",
    "Predictor": "cascadexml.serving.predictor",
}

__version__ = metadata.version("cascadexml")


def __getattr__(name: str) -> Any:
    # PEP 562: torch takes seconds to import, which `cascadexml --help` should not pay for.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
