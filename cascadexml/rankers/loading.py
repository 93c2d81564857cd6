"""Any ranker from its folder: its class is found by the kind that the bundle says."""

from importlib import import_module
from pathlib import Path
from typing import cast

from cascadexml.bundle import Bundle
from cascadexml.errors import FormatError
from cascadexml.rankers.base import BATCH_SIZE, PREFIX, Ranker, ranker_bundle

KINDS = {
    "blend": ("cascadexml.rankers.blend", "Blend"),
    "cascade": ("cascadexml.rankers.cascade.ranker", "CascadeRanker"),
    "cascade-onnx": ("cascadexml.rankers.cascade.onnx_ranker", "OnnxRanker"),
    "ensemble": ("cascadexml.rankers.ensemble", "Ensemble"),
    "linear": ("cascadexml.rankers.linear", "LinearRanker"),
    "names": ("cascadexml.rankers.names", "NamesRanker"),
    "neighbours": ("cascadexml.rankers.neighbours", "NearestNeighbours"),
    "popularity": ("cascadexml.rankers.popularity", "Popularity"),
}
"""Kind → module and class, imported when one is asked for: some need torch."""


def ranker_class(kind: str) -> type[Ranker]:
    """The class of the rankers of a kind.

    Raises:
        FormatError: there is no such kind.
    """
    if kind not in KINDS:
        raise FormatError(f"there is no ranker of kind {kind!r}: expected one of {', '.join(KINDS)}.")
    module, name = KINDS[kind]
    return cast(type[Ranker], getattr(import_module(module), name))


def load_ranker(place: Path | Bundle, device: str = "auto", batch_size: int = BATCH_SIZE) -> Ranker:
    """Load the ranker of whatever kind that lies at `place`.

    Args:
        place: where it lies, or the bundle that has been verified.
        device: as of `Ranker.load`.
        batch_size: as of `Ranker.load`.

    Raises:
        FormatError: as of `Ranker.load`, or what lies there is no ranker of a known kind.
        PredictionError: `device` is not there.
    """
    found = ranker_bundle(place)
    return ranker_class(found.kind.removeprefix(PREFIX)).load(found, device, batch_size)
