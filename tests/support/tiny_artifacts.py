"""A tiny model with random weights over the labels of real records: quick to make, whole in every part."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cascadexml.artifact import Origin, pack
from cascadexml.config import BlendSettings, LinearSettings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import Tokens, TokenStore
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.held_out import HELD_OUT, Seen, see
from cascadexml.evaluation.report import Attained, ChoicesReport, EvaluationReport
from cascadexml.labels.tree import build_tree
from cascadexml.metrics import BinReport, Report
from cascadexml.monitoring.reference import make_reference
from cascadexml.rankers.base import Documents, Ranker, ranker_bundle
from cascadexml.rankers.blend import Blend, Sources
from cascadexml.rankers.cascade.encoder import load_encoder, load_tokenizer
from cascadexml.rankers.cascade.network import CascadeXML, ModelConfig
from cascadexml.rankers.cascade.ranker import CascadeRanker
from cascadexml.rankers.ensemble import Cascade, Ensemble
from cascadexml.rankers.linear import LinearRanker
from cascadexml.rankers.loading import load_ranker
from cascadexml.rankers.mixture import Mixture
from tests.support.params import SETTINGS
from tests.support.tiny_encoders import make_tiny_encoder

EVERY_SOURCE = BlendSettings(sources=["linear", "neighbours", "vectors", "names"], neighbours=5)
MAX_LENGTH = 24
COUNTS = {"cascade": 0.1, "linear": 1.0, "neighbours": 4.0, "vectors": 1.0, "names": 8.0}
"""Synthetic weights of sources, that of the random network the least."""


def tiny_model(corpus: Corpus, encoder: Path, seed: int = 0) -> CascadeXML:
    """Two resolutions over a tiny encoder of two layers; weights large enough that scores differ visibly."""
    Z = corpus.splits["train"].Y[:, : corpus.vocabulary.L].T.tocsr()
    settings = ModelConfig(((1,), (2,)), (0.1, 0.1), (4,), "mean", "weighted")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = CascadeXML(load_encoder(str(encoder)), build_tree(Z, [16], seed=seed), settings)
        for parameter in (p for head in model.heads for p in head.parameters()):
            parameter.normal_()
    return model.eval()


def tiny_ensemble(corpus: Corpus, encoder: Path, members: int = 2, batch_size: int = 64) -> Ensemble:
    """Tiny models that differ in tree and weights, behind one encoder's tokenizer."""
    tokenizer = load_tokenizer(str(encoder))
    models = [tiny_model(corpus, encoder, seed) for seed in range(members)]
    return Ensemble([CascadeRanker(model, tokenizer, MAX_LENGTH, batch_size) for model in models])


def tiny_blend(
    corpus: Corpus,
    cascade: Cascade,
    settings: BlendSettings = EVERY_SOURCE,
    linear_settings: LinearSettings = LinearSettings(),  # noqa: B008
) -> Blend:
    """A blend of a cascade with everything that may rank beside it, weighed on dev where there is one."""
    train, dev = corpus.splits["train"], corpus.splits.get("dev")
    documents, Y = Documents(train.texts), train.Y[:, : corpus.vocabulary.L].tocsr()
    linear = LinearRanker.fit(documents, Y, linear_settings, seed=0)
    sources = Sources.of(cascade, linear, documents, Y, corpus.vocabulary.names[: Y.shape[1]], settings)
    uses = np.bincount(Y.indices, minlength=Y.shape[1])
    held_out, truth = (Documents(dev.texts), dev.Y) if dev else (Documents([]), Y[:0])
    blend = Blend.fit(sources, held_out, truth, uses, train.ids, settings)
    if not len(held_out) or np.count_nonzero(blend.mixture.rare) > 1:
        return blend
    # On so few records one source may answer alone, and what is wrong with the others would not show.
    weights = tuple(COUNTS[name] for name in sources.listed)
    return replace(blend, mixture=Mixture(weights, weights, -3.0, -3.0))


def tiny_metrics() -> EvaluationReport:
    """Figures of the shape that the stage evaluate writes; their values mean nothing."""
    figures = {"P@1": 0.4321, "nDCG@5": 0.5, "PSP@1": 0.25, "F1@1": 0.1, "micro_F1": 0.3}
    intervals = {name: (value - 0.01, value + 0.01) for name, value in figures.items()}
    return EvaluationReport(
        Report(figures, intervals, {"tail": BinReport(7, 5, 9, {"R@5": 0.125}, {"R@5": (0.1, 0.15)})}),
        {"popularity": Report({name: value / 4 for name, value in figures.items()}, {"P@1": (0.1, 0.11)})},
        choices=ChoicesReport(
            0.1875,
            {
                "0.5": {name: Attained(0.25, 20, 0.55, 0.3) for name in ("head", "torso", "tail")},
                "0.95": {"head": Attained(0.875, 0, 0.0, 0.0)}
                | {name: Attained(None, 0, 0.0, 0.0) for name in ("torso", "tail")},
            },
        ),
    )


def pack_tiny(folder: Path, corpus: Corpus, architecture: str = "bert") -> Path:
    """Write an encoder, a ranker and an artifact under `folder`; give the artifact's path."""
    encoder = make_tiny_encoder(architecture, folder / "encoder", layers=2)
    CascadeRanker(tiny_model(corpus, encoder), load_tokenizer(str(encoder)), MAX_LENGTH).save(folder / "model")
    pack_again(folder / "artifact", folder, corpus)
    return folder / "artifact"


def pack_tiny_blend(folder: Path, corpus: Corpus) -> Path:
    """Write what `pack_tiny` writes, and an artifact of a blend around the same network; give the latter's path."""
    pack_tiny(folder, corpus)
    tiny_blend(corpus, CascadeRanker.load(folder / "model", "cpu")).save(folder / "blend")
    pack_again(folder / "of-blend", folder, corpus, ranker=folder / "blend")
    return folder / "of-blend"


def pack_again(path: Path, folder: Path, corpus: Corpus, **changes: Any) -> None:
    """Pack to `path` what `pack_tiny` packed under `folder`, with some arguments of `pack` changed."""
    arguments = {
        "ranker": folder / "model",
        "vocabulary": corpus.vocabulary,
        "label_counts": np.bincount(corpus.splits["train"].Y.indices, minlength=len(corpus.vocabulary)),
        "calibration": Calibration(0.3, 0.1, 0.25),
        "metrics": tiny_metrics(),
        "origin": Origin(
            name="tiny",
            params=asdict(SETTINGS),
            documents={name: len(split) for name, split in corpus.splits.items()},
            data_fingerprint=corpus.fingerprint,
            git_revision="0" * 40,
            dvc_lock="1" * 64,
        ),
    }
    pack(path, **{**arguments, **changes})


def seen_held_out(corpus: Corpus, ranker: Ranker, tokens: Mapping[str, Tokens] | None = None) -> dict[str, Seen]:
    """What a ranker says of the records of dev and test."""
    documents = {name: Documents(corpus.splits[name].texts, (tokens or {}).get(name)) for name in HELD_OUT}
    return {name: see(ranker, each, 10) for name, each in documents.items()}


def tiny_reference(folder: Path, corpus: Corpus) -> Path:
    """Write the reference of the model that `pack_tiny` left under `folder`; give its path."""
    tokenizer = load_tokenizer(str(folder / "encoder"))
    tokens = {
        name: TokenStore.build(folder / "tokens" / name, corpus.splits[name].texts, tokenizer, MAX_LENGTH)
        for name in ("dev", "test")
    }
    ranker = load_ranker(folder / "model", "cpu")
    reference = make_reference(
        corpus,
        seen_held_out(corpus, ranker, tokens),
        Calibration(0.3, 0.1, 0.25),
        metadata=["type"],
        model_fingerprint=ranker_bundle(folder / "model").fingerprint,
    )
    reference.save(folder / "reference")
    return folder / "reference"
