"""Which peers there are, and with which settings: their authors' defaults, but for those named here. None was tuned."""

from benchmarks.peers import dense_head, foreign, neighbours
from benchmarks.peers.base import NGRAMS, OPENING, Peer
from cascadexml.bundle import sha256_of
from cascadexml.config import Settings

BONSAI = {"cluster_balanced": False, "cluster_k": 100, "max_depth": 3}
"""As omikuji's README measures Bonsai; its default settings are Parabel's. Three trees either way."""
XR_TRANSFORMER = {"truncate_length": 64, "num_train_epochs": 1, "batch_size": 32}
"""An epoch a layer of the tree, and texts as long as the dense head reads them, so that a CPU can do it."""
DENSE_HEAD = {
    "max_length": 64,
    "batch_size": 32,
    "epochs": 2,
    "encoder_lr": 2e-4,
    "head_lr": 3e-3,
    "bias": -6.0,
    "clip_norm": 1.0,
}


def peers(settings: Settings, max_steps: int | None = None) -> dict[str, Peer]:
    """By the name that the command line takes.

    Args:
        settings: of the run: its encoder, and how many neighbours vote.
        max_steps: where the trainings of transformers stop early, to see that they run.
    """
    versions = {"requirements": sha256_of(foreign.REQUIREMENTS), "opening": OPENING}
    encoder = {"encoder": settings.encoder.name}
    limited = XR_TRANSFORMER | ({"max_steps": max_steps} if max_steps else {})
    return {
        "neighbours": Peer(
            "TF-IDF nearest neighbours",
            neighbours.answer,
            {"neighbours": settings.blend.neighbours, "ngrams": NGRAMS, "opening": OPENING},
        ),
        "xr-linear": Peer("PECOS XR-Linear", foreign.answer, versions | {"program": "xr_linear"}),
        "bonsai": Peer("omikuji Bonsai", foreign.answer, versions | {"program": "trees", "hyper_param": BONSAI}),
        "parabel": Peer("omikuji Parabel", foreign.answer, versions | {"program": "trees", "hyper_param": {}}),
        "xr-transformer": Peer(
            "PECOS XR-Transformer",
            foreign.answer,
            versions | encoder | {"program": "xr_transformer", "params": limited},
            asked_for=True,
        ),
        "dense-head": Peer(
            "plain dense head",
            dense_head.answer,
            encoder | DENSE_HEAD | {"max_steps": max_steps},
            asked_for=True,
        ),
    }
