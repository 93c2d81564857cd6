"""A small training run on real records with a tiny random encoder, for tests in this process and in others."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import sparse

from cascadexml.bundle import Bundle
from cascadexml.config import EncoderSettings, TrainSettings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.labels.features import pifa
from cascadexml.labels.tfidf import Tfidf
from cascadexml.labels.tree import LabelTree, build_tree, extend_tree
from cascadexml.progress import Progress, silent
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.training.curves import Record
from cascadexml.training.ensemble import fit_ensemble
from cascadexml.training.fit import FitResult, fit
from cascadexml.training.run import Run
from tests.support.tiny_encoders import make_tiny_encoder

KNOBS: dict[str, Any] = {
    "epochs": 2.0,
    "batch_size": 32,
    "micro_batch_size": 32,
    "head_init": "xavier",
    "encoder_lr": 1e-3,
    "head_lr": 1e-2,
    "warmup_epochs": 0.2,
    "cosine_epochs": 0.5,
    "evaluations_per_epoch": 1,
    "precision": "fp32",
    "device": "cpu",
}


def prepare(folder: Path, corpus: Corpus, architecture: str = "bert", base: LabelTree | None = None) -> Path:
    """Write everything a run needs into `folder`: encoder, corpus, tokens, tree (`base` with new labels taken in)."""
    encoder = make_tiny_encoder(architecture, folder / "encoder")
    tokenizer = load_tokenizer(str(encoder))
    corpus.save(folder / "corpus")
    for name, split in corpus.splits.items():
        TokenStore.build(folder / "tokens" / name, split.texts, tokenizer, 32)
    Z = _features(corpus)
    (build_tree(Z, [8, 64], seed=0) if base is None else extend_tree(base, Z)).save(folder / "tree")
    return folder


def run_of(
    folder: Path,
    *,
    tree: LabelTree | None = None,
    seed: int = 0,
    dev: str = "dev",
    base: str | Path | Bundle | None = None,
    propensity: tuple[float, float] = (0.55, 1.5),
    **knobs: Any,
) -> Run:
    """The inputs that `prepare` wrote, with the split `dev` to select on, over its tree or another."""
    corpus = Corpus.load(folder / "corpus", ["train", dev])
    splits = {"train": corpus.splits["train"], "dev": corpus.splits[dev]}
    return Run(
        corpus=Corpus(splits, corpus.vocabulary),
        tokens={name: TokenStore.open(folder / "tokens" / split) for name, split in (("train", "train"), ("dev", dev))},
        tree=tree or LabelTree.load(folder / "tree"),
        encoder=EncoderSettings(name=str(folder / "encoder")),
        settings=TrainSettings(**{**KNOBS, **knobs}),
        seed=seed,
        propensity_a=propensity[0],
        propensity_b=propensity[1],
        base=Path(base) if isinstance(base, str) else base,
    )


def train(
    folder: Path, out: Path, *, record: Record | None = None, progress: Progress = silent, **inputs: Any
) -> FitResult:
    """Train on what `run_of` gives; checkpoints lie beside `out`."""
    return fit(
        run_of(folder, **inputs),
        out=out,
        checkpoints=out.parent / "checkpoints",
        progress=progress,
        record=record or (lambda step, figures: None),
    )


def train_ensemble(
    folder: Path, out: Path, seeds: Sequence[int], *, record: Record | None = None, **inputs: Any
) -> None:
    """Train a network a seed, each over a tree of its own, on what `run_of` gives; checkpoints lie beside `out`."""
    fit_ensemble(
        [run_of(folder, tree=tree_of(folder, seed), seed=seed, **inputs) for seed in seeds],
        out=out,
        checkpoints=out.parent / "checkpoints",
        record=record or (lambda step, figures: None),
    )


def tree_of(folder: Path, seed: int) -> LabelTree:
    """The tree that a seed gives over the labels of what `prepare` wrote."""
    return build_tree(_features(Corpus.load(folder / "corpus", ["train"])), [8, 64], seed=seed)


def _features(corpus: Corpus) -> sparse.csr_matrix:
    train = corpus.splits["train"]
    _, X = Tfidf.fit(train.texts, 1, 1, 10_000)
    return pifa(X, train.Y[:, : corpus.vocabulary.L], 100)


def main() -> None:
    """Train in a process of its own, printing a line at every record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("knobs", type=json.loads)
    arguments = parser.parse_args()

    def record(step: int, figures: Mapping[str, float]) -> None:
        print(step, json.dumps(figures), flush=True)

    (train_ensemble if "seeds" in arguments.knobs else train)(
        arguments.folder, arguments.out, record=record, **arguments.knobs
    )


if __name__ == "__main__":
    main()
