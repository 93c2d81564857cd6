"""The formats of an artifact and of the reference in it, apart from the code that writes and reads them.

So a stage that follows an older model depends on what an artifact is, not on how one is packed, shown or opened.
"""

import itertools
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cascadexml.bundle import MANIFEST, Bundle, Format
from cascadexml.errors import FormatError

ARTIFACT = Format("cascadexml.artifact", 2)
CASCADES = ("rankers/cascade", "rankers/ensemble", "rankers/blend/cascade")
"""Where an artifact's network or ensemble may lie: by itself, or as a source of the blend."""
REFERENCE = Format("cascadexml.reference", 1)
"""Of what `cascadexml.monitoring` adds to an artifact; here, because packing must know it."""


@dataclass(frozen=True)
class Exported:
    """What an artifact that was exported tells of it, under `exported` in its manifest.

    Attributes:
        format: "onnx".
        precision: "fp32" or "int8".
        artifact: fingerprint of the artifact that it was made from.
        ranker: fingerprint of that one's ranker, which figures, calibration and reference are of.
        libraries: versions of what made it.
    """

    format: str
    precision: str
    artifact: str
    ranker: str
    libraries: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.format}, {self.precision}, from the artifact {self.artifact}"


def exported_from(artifact: Bundle) -> Exported | None:
    """What an artifact was exported from; None where it was not.

    Raises:
        FormatError: its manifest says so in no known form.
    """
    told: Any = artifact.meta.get("exported")
    if told is None:
        return None
    try:
        found = Exported(**told)
        if not all(isinstance(each, str) for each in (found.format, found.precision, found.artifact, found.ranker)):
            raise TypeError("a value is no string")
    except TypeError as error:
        raise FormatError(
            f"{artifact.path} was exported, its manifest does not say from what ({error}): fetch it again."
        ) from None
    return found


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
