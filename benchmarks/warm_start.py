"""What the rows that a warm start gives to new labels are worth before any training.

    python benchmarks/warm_start.py remade ARTIFACT CORPUS TOKENS [--labels 250] [--params params.yaml]
    python benchmarks/warm_start.py untrained BASE ARTIFACT CORPUS [--params params.yaml]

remade: rows of rare labels (1 to 12 training documents) of a trained model are thrown away and made anew, as if these
labels were new. One JSON line a kind of row: nDCG@5 over all test records, and the recall of these labels.

untrained: ARTIFACT followed BASE with batches, `train.warm_start: true` and `train.epochs: 0`. One JSON line a model
and origin of the test records: nDCG@5, and the recall of the labels that only ARTIFACT knows.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from scipy import sparse
from torch.nn import functional

from cascadexml.artifact.artifact import open_artifact
from cascadexml.config import Settings, load_settings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.evaluation.judge import translate
from cascadexml.labels.tree import LabelTree
from cascadexml.metrics import bin_ratios, document_ratios
from cascadexml.progress import console_progress
from cascadexml.rankers.cascade.centroids import sample_vectors
from cascadexml.rankers.cascade.inference import rank_tokens
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.rankers.cascade.positives import label_slots
from cascadexml.rankers.cascade.warm_start import ALIGNMENT, start_new_labels
from cascadexml.ranking import Ranking
from cascadexml.serving.predictor import Predictor

RARE = 12
K = 10
NOWHERE = -1e4
"""A bias that no shortlist survives."""


def main() -> None:
    """Print one line a kind of row, or a model and origin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    modes = parser.add_subparsers(required=True, dest="mode")
    mode = modes.add_parser("remade")
    for name in ("artifact", "corpus", "tokens"):
        mode.add_argument(name, type=Path)
    mode.add_argument("--labels", type=int, default=250)
    mode = modes.add_parser("untrained")
    for name in ("base", "artifact", "corpus"):
        mode.add_argument(name, type=Path)
    arguments = parser.parse_args()
    settings, corpus = load_settings(arguments.params), Corpus.load(arguments.corpus)
    if arguments.mode == "remade":
        remade(arguments.artifact, corpus, arguments.tokens, arguments.labels, settings)
    else:
        untrained(arguments.base, arguments.artifact, corpus, settings)


@torch.no_grad()
def remade(artifact: Path, corpus: Corpus, tokens: Path, count: int, settings: Settings) -> None:
    """Rows of `count` rare labels: as trained, made anew, made anew at full length, and none."""
    trained = CascadeXML.load(open_artifact(artifact).network)
    L = trained.tree.L
    train, test = (corpus.splits[name].Y[:, :L] for name in ("train", "test"))
    frequency = np.bincount(train.indices, minlength=L)
    rare = np.flatnonzero((frequency >= 1) & (frequency <= RARE))
    chosen = np.sort(np.random.default_rng(settings.seed).choice(rare, count, replace=False))
    # New labels are the last of a vocabulary, so these become the last.
    order = np.concatenate([np.setdiff1d(np.arange(L), chosen), chosen])
    model = renumbered(trained, order)
    Y_train, Y_test = train[:, order].tocsr(), test[:, order].tocsr()
    stores = {name: TokenStore.open(tokens / name) for name in ("train", "test")}
    leaf, first = model.heads[-1], L - count
    slots = torch.from_numpy(label_slots(model.tree)[first:])
    mask = np.arange(L) >= first

    def report(rows: str) -> None:
        ranking = rank_tokens(model, stores["test"], K, progress=console_progress())
        print(json.dumps({"rows": rows, "labels": count} | figures(ranking, Y_test, mask)), flush=True)

    report("as trained")
    before, _ = leaf.rows(slots)
    size = settings.train.micro_batch_size
    start_new_labels(model, first, stores["train"], Y_train, size, settings.seed, console_progress())
    report("made anew")
    after, bias = leaf.rows(slots)
    along = functional.cosine_similarity(before, after).numpy()
    quantiles = {f"{q} %": round(float(np.percentile(along, q)), 3) for q in (10, 25, 50, 75, 90)}
    print(json.dumps({"share of a trained row along the one made anew": quantiles}), flush=True)
    # Longer, with the same logit at the mean document.
    mean = sample_vectors(model, stores["train"], size, settings.seed)[-1].mean(0)
    leaf.set_rows(slots, after / ALIGNMENT, bias + after @ mean * (1 - 1 / ALIGNMENT))
    report("made anew at full length")
    leaf.set_rows(slots, torch.zeros_like(after), torch.full_like(bias, NOWHERE))
    report("none")


def renumbered(model: CascadeXML, order: npt.NDArray[np.int64]) -> CascadeXML:
    """The same network for labels in another order: its row i is what row order[i] was."""
    tree = model.tree
    moved = LabelTree(np.argsort(order)[tree.leaf_order], tree.offsets, tree.L, tree.levels)
    other = CascadeXML(model.encoder, moved, model.config)
    other.load_state_dict(model.state_dict())
    return other


def untrained(base: Path, artifact: Path, corpus: Corpus, settings: Settings) -> None:
    """Both models on the test records of the source and of the batches."""
    test = corpus.splits["test"]
    origins = test.metadata.column("batch").is_null().to_numpy(zero_copy_only=False)
    predictors = {name: Predictor.load(path) for name, path in (("base", base), ("untrained", artifact))}
    known = predictors["base"].vocabulary
    mask = np.ones(len(corpus.vocabulary.ids), bool)
    mask[corpus.vocabulary.rows(pa.array(known.ids[: known.L], pa.string()))] = False
    mask[predictors["untrained"].vocabulary.L :] = False
    for name, predictor in predictors.items():
        ranking = predictor.rank(test.texts, settings.evaluate.top_k, console_progress())
        ranking = translate(ranking, predictor.vocabulary, corpus.vocabulary)
        for origin, rows in (("source", origins), ("batches", ~origins)):
            part = Ranking(ranking.labels[rows], ranking.scores[rows])
            said = {"model": name, "origin": origin, "new labels": int(mask.sum())}
            print(json.dumps(said | figures(part, test.Y[rows], mask)), flush=True)


def figures(ranking: Ranking, Y: sparse.csr_matrix, mask: npt.NDArray[np.bool_]) -> dict[str, float]:
    """nDCG@5 over all documents, and the recall of the labels in `mask`."""
    found = bin_ratios(ranking, Y, mask, [K])[f"R@{K}"]
    uses = int(found.denominator.sum())
    return {
        "documents": Y.shape[0],
        "nDCG@5": round(float(document_ratios(ranking, Y, [5])["nDCG@5"].numerator.mean()), 4),
        "uses of these labels": uses,
        f"R@{K} of these labels": round(float(found.numerator.sum()) / max(1, uses), 4),
    }


if __name__ == "__main__":
    main()
