"""The model registry in S3."""

from cascadexml.registry.aliases import ANY, Move
from cascadexml.registry.collect import Removed
from cascadexml.registry.registry import Registry
from cascadexml.registry.versions import Version

__all__ = ["ANY", "Move", "Registry", "Removed", "Version"]
