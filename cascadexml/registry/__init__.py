"""The model registry in S3."""

from cascadexml.registry.registry import Registry, Removed, Version

__all__ = ["Registry", "Removed", "Version"]
