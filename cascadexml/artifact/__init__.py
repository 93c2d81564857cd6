"""A trained model on disk: packing, opening, model card, signature."""

from cascadexml.artifact.artifact import Artifact, Origin, open_artifact, pack

__all__ = ["Artifact", "Origin", "open_artifact", "pack"]
