"""A trained model on disk: packing, opening, model card, signature."""

from cascadexml.artifact.artifact import Artifact, open_artifact
from cascadexml.artifact.origin import Origin
from cascadexml.artifact.packing import pack

__all__ = ["Artifact", "Origin", "open_artifact", "pack"]
