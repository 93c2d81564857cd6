"""The schedule's three phases and the parameter groups."""

import itertools
from pathlib import Path

import pytest
import torch
from scipy import sparse

from cascadexml.config import TrainSettings
from cascadexml.labels.tree import build_tree
from cascadexml.rankers.cascade.encoder import load_encoder
from cascadexml.rankers.cascade.network import CascadeXML, ModelConfig
from cascadexml.training.optimisers import build_adamw
from cascadexml.training.schedule import Schedule
from tests.support.tiny_encoders import make_tiny_encoder


def test_rate_rises_stays_flat_and_falls_to_nearly_zero_while_beta1_goes_the_other_way() -> None:
    schedule = Schedule(steps=100, warmup=10, cosine=30)
    factors = [schedule.factor(step) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert factors[10:70] == [1.0] * 60
    assert all(a > b for a, b in itertools.pairwise(factors[70:]))
    assert 0 < factors[-1] < 0.01
    assert schedule.beta1(40) == pytest.approx(0.85)
    assert schedule.beta1(99) == pytest.approx(0.95, abs=1e-3)
    assert schedule.beta1(0) == pytest.approx(0.94)
    assert Schedule(100, 10, 30, cycle_beta1=False).beta1(50) == 0.9


def test_phases_may_be_missing_or_overlap() -> None:
    assert [Schedule(3, 0, 0).factor(step) for step in range(3)] == [1.0] * 3
    overlapping = [Schedule(4, 4, 4).factor(step) for step in range(4)]
    assert all(0 < factor <= 1 for factor in overlapping)


def test_groups_hold_every_trained_parameter_once_with_the_paper_s_decay(tmp_path: Path) -> None:
    tree = build_tree(sparse.random(23, 40, 0.3, "csr", random_state=0), [4], seed=0)
    settings = TrainSettings(encoder_lr=1e-4, head_lr=1e-3, encoder_weight_decay=0.05, head_weight_decay=0.005)
    encoder = load_encoder(str(make_tiny_encoder("bert", tmp_path / "encoder")), dropout=0.0)
    model = CascadeXML(encoder, tree, ModelConfig(((1, 2), (4,)), (0.1, 0.1), (4,), "mean", "leaf"))
    model.freeze(1)
    optimizer = build_adamw(model, settings)
    found = {id(p): (g["peak_lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(found) == len(trained)
    assert not any(".layer.0." in name for name in trained)
    for name, parameter in trained.items():
        lr, decay = (1e-4, 0.05) if name.startswith("encoder.") else (1e-3, 0.005)
        assert found[id(parameter)] == (lr, 0.0 if "bias" in name or "LayerNorm" in name else decay), name
    Schedule(10, 5, 0).apply(optimizer, 0)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(
        [g["peak_lr"] / 5 for g in optimizer.param_groups]
    )
    assert optimizer.param_groups[0]["betas"][0] == pytest.approx(0.93)
    assert isinstance(optimizer, torch.optim.AdamW)
