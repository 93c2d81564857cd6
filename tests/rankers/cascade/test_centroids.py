"""Rows started at the mean vectors of their documents, against a plain computation in numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.labels.tree import LabelTree
from cascadexml.progress import silent
from cascadexml.rankers.cascade import centroids, heads
from cascadexml.rankers.cascade.centroids import CONCENTRATION, start_at_centroids
from cascadexml.rankers.cascade.encoder import load_encoder
from cascadexml.rankers.cascade.network import CascadeXML, ModelConfig
from cascadexml.rankers.cascade.positives import LevelPositives, label_slots
from tests.support.tiny_runs import prepare


@pytest.mark.parametrize("block", [7, heads.BLOCK])
def test_rows_point_along_the_mean_direction_and_biases_give_the_mean_number_of_labels(
    tmp_path: Path, small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(heads, "BLOCK", block)
    monkeypatch.setattr(centroids, "BLOCK", block)
    folder = prepare(tmp_path, small_corpus)
    tree, tokens = LabelTree.load(folder / "tree"), TokenStore.open(folder / "tokens" / "train")
    Y = small_corpus.splits["train"].Y
    config = ModelConfig(((3,), (4,), (4,)), (0.1,) * 3, (8, 16), "mean", "leaf")
    model = CascadeXML(load_encoder(str(folder / "encoder"), dropout=0.0), tree, config)
    start_at_centroids(model, tokens, LevelPositives(Y, tree), 32, 0, silent)

    batch = tokens.batch(np.arange(len(tokens)))
    with torch.no_grad():
        vectors = [v.double().numpy() for v in model.vectors(batch.input_ids, batch.attention_mask)]
    slots = [*(tree.cluster_of(level) for level in range(2)), label_slots(tree)]
    for r, head in enumerate(model.heads):
        x = vectors[r] - vectors[r].mean(0)
        spread = np.linalg.norm(x, axis=1).mean()
        rows, biases = (each.double().numpy() for each in head.rows(head.slots))
        positive = np.zeros((len(tokens), len(rows)))
        for n in range(len(tokens)):
            positive[n, slots[r][Y[n].indices]] = 1
        sums = positive.T @ (x / np.linalg.norm(x, axis=1, keepdims=True))
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        expected = CONCENTRATION / spread * np.divide(sums, lengths, where=lengths > 0, out=np.zeros_like(sums))
        np.testing.assert_allclose(rows, expected, atol=2e-3 * np.abs(expected).max())
        # All labels share one constant beyond their log-odds of a von Mises-Fisher model.
        priors = np.log(np.maximum(positive.sum(0), 0.5) / len(tokens))
        constants = biases - (priors - expected @ vectors[r].mean(0))
        np.testing.assert_allclose(constants, constants[0], atol=2e-2)
        real = head.valid.numpy()
        probabilities = 1 / (1 + np.exp(-(vectors[r] @ rows.T + biases)[:, real]))
        assert probabilities.sum(1).mean() == pytest.approx(positive.sum(1).mean(), rel=1e-3)


def test_rows_in_16_bits_lose_no_more_by_many_documents_than_by_being_kept(
    tmp_path: Path, small_corpus: Corpus
) -> None:
    folder = prepare(tmp_path, small_corpus)
    tree, tokens = LabelTree.load(folder / "tree"), TokenStore.open(folder / "tokens" / "train")
    Y = small_corpus.splits["train"].Y
    config = ModelConfig(((3,), (4,), (4,)), (0.1,) * 3, (8, 16), "mean", "leaf", ("bf16", "bf16", "bf16"))
    model = CascadeXML(load_encoder(str(folder / "encoder"), dropout=0.0), tree, config)
    # One document at a time: a cluster's row would be rounded some forty times.
    start_at_centroids(model, tokens, LevelPositives(Y, tree), 1, 0, silent)
    batch = tokens.batch(np.arange(len(tokens)))
    with torch.no_grad():
        x = model.vectors(batch.input_ids, batch.attention_mask)[0].double().numpy()
    x -= x.mean(0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    # A document with two labels of a cluster still counts once in it.
    holds = Y[:, : tree.L] @ np.eye(8)[tree.cluster_of(0)] > 0
    assert holds.sum(0).min() > 30
    sums = holds.T.astype(np.float64) @ x
    rows = model.heads[0].rows(model.heads[0].slots)[0].double().numpy()
    off = [np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b)) for a, b in zip(rows, sums, strict=True)]
    assert max(off) < 0.006
