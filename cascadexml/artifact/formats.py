"""The formats of an artifact and of the reference in it, apart from the code that writes and reads them.

So a stage that follows an older model depends on what an artifact is, not on how one is packed, shown or opened.
"""

import itertools
from collections.abc import Container, Iterable

from cascadexml.bundle import MANIFEST, Format

ARTIFACT = Format("cascadexml.artifact", 2)
CASCADES = ("rankers/cascade", "rankers/ensemble", "rankers/blend/cascade")
"""Where an artifact's network or ensemble may lie: by itself, or as a source of the blend."""
REFERENCE = Format("cascadexml.reference", 1)
"""Of what `cascadexml.monitoring` adds to an artifact; here, because packing must know it."""


def networks(files: Container[str], places: Iterable[str] = CASCADES) -> list[str]:
    """Where a bundle's networks lie: the folder of one cascade, or those of an ensemble's members; none without any.

    Args:
        files: what the bundle's manifest lists.
        places: folders that may hold the cascade or the ensemble, the first that does counts; "" is the bundle itself.
    """
    for place in places:
        holder = f"{place}/" if place else ""
        if f"{holder}network/{MANIFEST}" in files:
            return [place]
        members = (f"{holder}member_{i}" for i in itertools.count())
        if found := list(itertools.takewhile(lambda member: f"{member}/network/{MANIFEST}" in files, members)):
            return found
    return []
