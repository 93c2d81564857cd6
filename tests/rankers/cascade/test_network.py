"""The network against a dense reference that knows nothing of slots, shortlists or tree order."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from torch.nn import functional

from cascadexml.config import TrainSettings
from cascadexml.errors import ConfigError, FormatError
from cascadexml.labels.tree import LabelTree, build_tree
from cascadexml.rankers.cascade.encoder import load_encoder
from cascadexml.rankers.cascade.network import (
    CascadeXML,
    default_taps,
    derive_config,
    derive_loss_weights,
)
from cascadexml.rankers.cascade.positives import LevelPositives
from tests.support.tiny_encoders import ARCHITECTURES, make_tiny_encoder

L = 23


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_encoder("bert", tmp_path_factory.mktemp("bert"))


def make_tree(levels: list[int], labels: int = L) -> LabelTree:
    # Synthetic label features: only the shape of the tree matters here.
    return build_tree(sparse.random(labels, 40, 0.3, "csr", random_state=0), levels, seed=0)


def make_model(encoder: Path, levels: list[int], **knobs: object) -> CascadeXML:
    tree = make_tree(levels)
    settings = TrainSettings(**{"pooling": "cls", "dropout": [0.0] * (len(levels) + 1), **knobs})
    torch.manual_seed(1)
    model = CascadeXML(load_encoder(str(encoder), dropout=0.0), tree, derive_config(settings, 4, tree))
    for head in model.heads:
        torch.nn.init.normal_(head.weight, std=0.3)
        torch.nn.init.normal_(head.bias)
    return model.double()


def make_batch(B: int = 3, T: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    mask = torch.ones(B, T, dtype=torch.long)
    mask[-1, 5:] = 0
    return torch.randint(5, 100, (B, T), generator=generator) * mask, mask


def clusters_by_definition(tree: LabelTree) -> list[list[list[int]]]:
    """For each level above the labels, each cluster's labels."""
    return [[tree.leaf_order[a:b].tolist() for a, b in itertools.pairwise(offsets)] for offsets in tree.offsets]


def rows_of_nodes(model: CascadeXML) -> list[list[int]]:
    """For each resolution, the row of the head's weight that belongs to each cluster or label."""
    rows = [list(range(C)) for C in model.tree.levels]
    inverse = {int(label): slot for slot, label in enumerate(model.label_of_slot) if label >= 0}
    return [*rows, [inverse[label] for label in range(model.tree.L)]]


@pytest.mark.parametrize("levels", [[], [4], [2, 8], [2, 4, 8]])
@pytest.mark.parametrize("score", ["leaf", "weighted"])
def test_wide_shortlists_give_dense_scores(tiny_bert: Path, levels: list[int], score: str) -> None:
    model = make_model(tiny_bert, levels, score=score, shortlist=levels).eval()
    ids, mask = make_batch()
    labels, scores = model.rank(ids, mask, L)
    with torch.no_grad():
        h = model.vectors(ids, mask)
        rows = rows_of_nodes(model)
        dense = torch.sigmoid(functional.linear(h[-1], model.heads[-1].weight, model.heads[-1].bias))[:, rows[-1]]
        if score == "weighted" and levels:
            parent = torch.sigmoid(functional.linear(h[-2], model.heads[-2].weight, model.heads[-2].bias))
            of_label = {
                label: c for c, members in enumerate(clusters_by_definition(model.tree)[-1]) for label in members
            }
            dense = dense * parent[:, [of_label[label] for label in range(L)]]
    for b in range(ids.shape[0]):
        assert sorted(labels[b].tolist()) == list(range(L))
        np.testing.assert_allclose(scores[b], dense[b, labels[b]], atol=1e-5, rtol=1e-5)
        assert (scores[b].diff() <= 0).all()


def test_wide_shortlists_give_dense_losses_and_gradients(tiny_bert: Path) -> None:
    levels = [2, 8]
    model = make_model(tiny_bert, levels, shortlist=levels).eval()
    ids, mask = make_batch()
    truth = [[0, 7, 22], [3], [1, 2, 3, 4]]
    Y = sparse.csr_matrix((np.ones(8), (np.repeat([0, 1, 2], [3, 1, 4]), np.concatenate(truth))), (3, L + 2))
    positives = LevelPositives(Y, model.tree).batch(np.arange(3), torch.device("cpu"))
    cascade = model.losses(model(ids, mask, positives)).sum(1).mean()
    cascade.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    nodes = [*clusters_by_definition(model.tree), [[label] for label in range(L)]]
    h = model.vectors(ids, mask)
    dense = torch.zeros((), dtype=torch.float64)
    for r, (members, rows) in enumerate(zip(nodes, rows_of_nodes(model), strict=True)):
        logits = functional.linear(h[r], model.heads[r].weight, model.heads[r].bias)[:, rows]
        targets = torch.tensor([[float(bool(set(t) & set(node))) for node in members] for t in truth])
        dense = dense + functional.binary_cross_entropy_with_logits(logits, targets.double())
    dense.backward()
    assert cascade.item() == pytest.approx(dense.item(), rel=1e-5)
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert set(found) == set(expected)
    assert any("encoder" in name for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("heads", ["dense", "lean"])
def test_learning_from_all_labels_is_learning_from_the_widest_shortlist(tiny_bert: Path, heads: str) -> None:
    ids, mask = make_batch()
    Y = sparse.csr_matrix((np.ones(4), ([0, 0, 1, 2], [0, 7, 3, 22])), (3, L + 2))
    found = []
    for shortlist, all_labels in (([1, 1], True), ([2, 8], False)):
        model = make_model(tiny_bert, [2, 8], shortlist=shortlist, heads=heads, lean_rows="fp32").eval()
        positives = LevelPositives(Y, model.tree).batch(np.arange(3), torch.device("cpu"))
        outputs = model(ids, mask, positives, all_labels=all_labels)
        # With one of eight clusters in the shortlist a loss is the sum over labels by an eighth of their number.
        found.append(model.losses(outputs)[:, -1].detach() / (8 if all_labels else 1))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_narrow_shortlists_rank_only_their_children_and_pad_the_rest(tiny_bert: Path) -> None:
    model = make_model(tiny_bert, [2, 8], shortlist=[1, 2]).eval()
    ids, mask = make_batch()
    labels, scores = model.rank(ids, mask, L)
    coarse, fine = clusters_by_definition(model.tree)
    for b in range(ids.shape[0]):
        kept = [label for label in labels[b].tolist() if label >= 0]
        clusters = {c for c, members in enumerate(fine) if set(members) & set(kept)}
        assert len(clusters) == 2
        assert sorted(kept) == sorted(label for c in clusters for label in fine[c])
        assert any(set(kept) <= set(members) for members in coarse)
        assert (labels[b, len(kept) :] == -1).all()
        assert (scores[b, len(kept) :] == 0).all()


def test_a_text_scores_the_same_alone_and_padded_in_a_batch(tiny_bert: Path) -> None:
    for pooling in ("cls", "mean"):
        model = make_model(tiny_bert, [2, 8], pooling=pooling).float().eval()
        ids, mask = make_batch()
        labels, scores = model.rank(ids, mask, L)
        alone_labels, alone = model.rank(ids[-1:, :5], mask[-1:, :5], L)
        by_label = dict(zip(labels[-1].tolist(), scores[-1].tolist(), strict=True))
        for label, score in zip(alone_labels[0].tolist(), alone[0].tolist(), strict=True):
            assert by_label[label] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_models_of_every_architecture_load_and_score_equally(architecture: str, tmp_path: Path) -> None:
    model = make_model(make_tiny_encoder(architecture, tmp_path / "encoder"), [2, 8], pooling="mean").float().eval()
    model.save(tmp_path / "model")
    loaded = CascadeXML.load(tmp_path / "model")
    ids, mask = make_batch()
    for expected, found in zip(model.rank(ids, mask, 5), loaded.rank(ids, mask, 5), strict=True):
        torch.testing.assert_close(expected, found)
    assert loaded.config == model.config


def test_a_saved_model_does_not_tell_where_its_encoder_lay(tiny_bert: Path, tmp_path: Path) -> None:
    for place in ("here", "there"):
        shutil.copytree(tiny_bert, tmp_path / place / "encoder")
        make_model(tmp_path / place / "encoder", [4]).float().save(tmp_path / place / "model")
    here, there = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "here/model", tmp_path / "there/model")
    )
    assert here == there
    assert not any(str(tmp_path).encode() in content for content in here.values())


def test_a_damaged_model_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "model"
    make_model(tiny_bert, [4]).float().save(path)
    weights = path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        CascadeXML.load(path)
    with pytest.raises(FormatError):
        CascadeXML.load(tmp_path / "nothing")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["encoder.embeddings.word_embeddings.weight", "_heads.1.bias"])
def test_weights_that_are_no_numbers_are_refused_by_file_and_tensor(
    tiny_bert: Path, tmp_path: Path, name: str, value: float
) -> None:
    model = make_model(tiny_bert, [4]).float()
    with torch.no_grad():
        model.state_dict()[name].view(-1)[5] = value
    model.save(tmp_path / "model")
    with pytest.raises(FormatError) as refusal:
        CascadeXML.load(tmp_path / "model")
    said = str(refusal.value)
    assert said.startswith(f"{tmp_path}/model/model.safetensors holds a weight that is NaN or infinite in {name}")
    assert "\n" not in said


def test_freezing_leaves_the_upper_layers_and_the_heads(tiny_bert: Path) -> None:
    model = make_model(tiny_bert, [4])
    model.freeze(2)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {
        name
        for name, _ in model.named_parameters()
        if ".embeddings." in name or ".layer.0." in name or ".layer.1." in name
    }
    assert frozen


@given(st.integers(1, 48), st.integers(1, 6))
@settings(deadline=None)
def test_default_taps_rise_to_the_last_layer_and_are_the_papers_at_depth_12(depth: int, R: int) -> None:
    taps = default_taps(depth, R)
    assert len(taps) == R
    assert taps[-1] == (depth,)
    assert all(1 <= layer <= depth for layers in taps for layer in layers)
    assert all(max(a) <= max(b) for a, b in itertools.pairwise(taps))
    assert default_taps(12, 4) == ((5, 6), (8,), (10,), (12,))
    assert default_taps(12, 3) == ((7, 8), (10,), (12,))


@pytest.mark.parametrize(
    ("knobs", "named"),
    [
        ({"taps": [[1], [9], [4]]}, r"train\.taps.*1 to 4"),
        ({"taps": [[4]]}, r"train\.taps has 1 values, expected 3"),
        ({"dropout": [0.1, 0.2]}, r"train\.dropout"),
        ({"shortlist": [1, 2, 3]}, r"train\.shortlist has 3 values, expected 2"),
    ],
)
def test_lists_that_do_not_fit_are_refused_by_name(knobs: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        derive_config(TrainSettings(**knobs), 4, make_tree([2, 8]))


def test_one_number_holds_for_every_resolution() -> None:
    config = derive_config(TrainSettings(dropout=[0.1], shortlist=[2]), 4, make_tree([2, 8]))
    assert (config.dropout, config.shortlist) == ((0.1, 0.1, 0.1), (2, 2))
    assert derive_loss_weights(TrainSettings(loss_weights=[0.5]), make_tree([2, 8])) == [0.5] * 3
    assert derive_loss_weights(TrainSettings(), make_tree([2, 8])) == [1.0] * 3
    with pytest.raises(ConfigError, match=r"train\.loss_weights has 2 values, expected 3"):
        derive_loss_weights(TrainSettings(loss_weights=[1.0, 2.0]), make_tree([2, 8]))


def test_positives_of_a_batch_are_those_of_the_label_matrix() -> None:
    tree = make_tree([2, 8])
    Y = sparse.random(30, L + 3, 0.15, "csr", random_state=3)
    rows = np.array([7, 0, 29, 7])
    levels = LevelPositives(Y, tree).batch(rows, torch.device("cpu"))
    nodes = [*clusters_by_definition(tree)]
    for r, members in enumerate(nodes):
        expected = {
            (b, c)
            for b, row in enumerate(rows)
            for c, labels in enumerate(members)
            if set(Y[row].indices.tolist()) & set(labels)
        }
        found = list(zip(*(x.tolist() for x in levels[r]), strict=True))
        assert len(found) == len(set(found))
        assert set(found) == expected
    counts = np.bincount(levels[-1][0].numpy(), minlength=4)
    assert counts.tolist() == [int((Y[row].indices < L).sum()) for row in rows]


def test_the_configuration_on_disk_is_plain_json(tiny_bert: Path, tmp_path: Path) -> None:
    make_model(tiny_bert, [4]).float().save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["taps"][-1] == [4]
    assert config["pooling"] == "cls"
