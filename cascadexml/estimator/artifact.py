"""train_artifact(): from a corpus to the artifact that the pipeline packs, with no file of the user's in between."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cascadexml.artifact import Origin, pack
from cascadexml.config import Settings
from cascadexml.config.recorded import recorded
from cascadexml.config.train import member_seeds
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.evaluation.calibration import calibration_report
from cascadexml.evaluation.evaluated import Evaluated
from cascadexml.evaluation.report import EvaluationReport
from cascadexml.labels.clustering import cluster_labels
from cascadexml.metrics import Report
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import Documents, Ranker
from cascadexml.rankers.blend import Blend, Sources
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.ensemble import load_cascade
from cascadexml.rankers.linear import LinearRanker
from cascadexml.training.ensemble import fit_ensemble
from cascadexml.training.run import Run


def train_artifact(
    corpus: Corpus, settings: Settings, out: Path, *, checkpoints: Path, progress: Progress = silent
) -> EvaluationReport:
    """Tokenise, cluster the labels, train, blend and calibrate on dev, measure, and pack.

    What the pipeline does more is left out: the baselines, the reference that later batches are compared with, and a
    warm start. Killed at any moment, the next call with the same corpus, settings and checkpoints goes on from the last
    checkpoint and ends with the same weights (see `fit_ensemble`).

    Args:
        corpus: train, and dev and test where there are any: without dev the last weights are kept and scores are not
            calibrated, without test nothing is measured on it.
        settings: encoder, tokenize, cluster, train, linear, blend, evaluate and package are read.
        out: the artifact's folder; one that lies there is replaced.
        checkpoints: folder under which the training keeps its state until it is done.
        progress: told of every step.

    Returns:
        What was measured, as the artifact keeps it.

    Raises:
        ConfigError: settings that do not fit the data, the encoder or this machine, or scikit-learn is not installed.
        DataError: no word occurs in enough texts to cluster the labels by.
        EncoderError: the encoder cannot be found or used.
        TrainingError: as of `fit`.
        PredictionError: out of memory on dev or test, or the device is not there.
    """
    with tempfile.TemporaryDirectory(prefix="cascadexml-") as scratch:
        tokens = _tokenize(Path(scratch) / "tokens", corpus, settings, progress)
        runs = _runs(corpus, tokens, settings, progress)
        fit_ensemble(runs, out=Path(scratch) / "model", checkpoints=checkpoints, progress=progress)
        blend = _blend(Path(scratch), corpus, tokens, settings, progress)
        evaluated, report = _evaluate(blend, corpus, tokens, settings, progress)
        pack(
            out,
            ranker=Path(scratch) / "blend",
            vocabulary=corpus.vocabulary,
            label_counts=np.bincount(corpus.splits["train"].Y.indices, minlength=len(corpus.vocabulary)),
            calibration=evaluated.calibration,
            metrics=report,
            origin=Origin(
                name=settings.package.name,
                params=recorded(settings),
                documents={name: len(split) for name, split in corpus.splits.items()},
                data_fingerprint=corpus.fingerprint,
            ),
        )
    return report


def _tokenize(folder: Path, corpus: Corpus, settings: Settings, progress: Progress) -> dict[str, TokenStore]:
    tokenizer = load_tokenizer(settings.encoder.name, settings.encoder.revision)
    knobs = settings.tokenize
    return {
        name: TokenStore.build(
            folder / name, split.texts, tokenizer, knobs.max_length, processes=knobs.processes, progress=progress
        )
        for name, split in corpus.splits.items()
        if len(split)
    }


def _runs(corpus: Corpus, tokens: Mapping[str, TokenStore], settings: Settings, progress: Progress) -> list[Run]:
    """The trainings that the settings ask for, each over a label tree of its own."""
    seeds = member_seeds(settings.seed, settings.train.ensemble)
    trees, _ = cluster_labels(
        corpus.splits["train"].texts, corpus.train_labels, settings.cluster, seeds, progress=progress
    )
    return [
        Run(
            corpus=corpus,
            tokens=tokens,
            tree=tree,
            encoder=settings.encoder,
            settings=settings.train,
            seed=seed,
            propensity_a=settings.evaluate.propensity_a,
            propensity_b=settings.evaluate.propensity_b,
        )
        for tree, seed in zip(trees, seeds, strict=True)
    ]


def _blend(
    folder: Path, corpus: Corpus, tokens: Mapping[str, TokenStore], settings: Settings, progress: Progress
) -> Blend:
    """The blend of the network, or the ensemble, in the folder `model`, written beside it."""
    train, L = corpus.splits["train"], corpus.vocabulary.L
    documents, Y = Documents(train.texts, tokens["train"]), corpus.train_labels
    linear = LinearRanker.fit(documents, Y, settings.linear, settings.seed, progress)
    cascade = load_cascade(folder / "model", settings.train.device)
    sources = Sources.of(cascade, linear, documents, Y, corpus.vocabulary.names[:L], settings.blend, progress)
    dev = corpus.splits.get("dev")
    blend = Blend.fit(
        sources,
        Documents(dev.texts, tokens["dev"]) if dev and len(dev) else Documents([]),
        dev.Y if dev else Y[:0],
        np.bincount(Y.indices, minlength=L),
        train.ids,
        settings.blend,
        seed=settings.seed,
        progress=progress,
    )
    blend.save(folder / "blend")
    return blend


def _evaluate(
    ranker: Ranker, corpus: Corpus, tokens: Mapping[str, TokenStore], settings: Settings, progress: Progress
) -> tuple[Evaluated, EvaluationReport]:
    K = settings.evaluate.top_k
    rankings = {
        name: ranker.rank(Documents(corpus.splits[name].texts, tokens[name]), K, progress=progress)
        for name in ("dev", "test")
        if name in tokens
    }
    evaluated = Evaluated(rankings, corpus, settings.evaluate, settings.seed)
    dev = evaluated.report("dev").figures if "dev" in rankings else {}
    if "test" not in rankings:
        return evaluated, EvaluationReport(Report({}, {}), dev=dev)
    found = calibration_report(evaluated.calibration, rankings["test"], corpus.splits["test"].Y)
    return evaluated, EvaluationReport(
        evaluated.report("test"), dev=dev, calibration=found, choices=evaluated.attained()
    )
