"""The formats of an artifact and of the reference in it, apart from the code that writes and reads them.

So a stage that follows an older model depends on what an artifact is, not on how one is packed, shown or opened.
"""

from cascadexml.bundle import Format

ARTIFACT = Format("cascadexml.artifact", 2)
CASCADES = ("rankers/cascade", "rankers/blend/cascade")
"""Where an artifact's cascade may lie: by itself, or as a source of the blend."""
REFERENCE = Format("cascadexml.reference", 1)
"""Of what `cascadexml.monitoring` adds to an artifact; here, because packing must know it."""
