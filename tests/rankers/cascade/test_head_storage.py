"""Nobody outside `heads` knows how rows are stored: with another storage everything comes out as with the dense one."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.labels.tree import LabelTree
from cascadexml.rankers.cascade import heads, network
from cascadexml.rankers.cascade.heads import Head
from cascadexml.rankers.cascade.inference import rank_tokens
from cascadexml.rankers.cascade.network import CascadeXML
from tests.support.tiny_runs import prepare, train


class HalvedHead(Head):
    """Rows in two parameters, the biases as their last column: the even slots, then the odd ones."""

    def __init__(self, children: Tensor, d: int, dropout: float) -> None:
        super().__init__(children, d)
        self.drop = nn.Dropout(dropout)
        size = self.P * self.m
        self.halves = nn.ParameterList([torch.zeros((size + 1) // 2, d + 1), torch.zeros(size // 2, d + 1)])

    def _whole(self) -> Tensor:
        whole = torch.empty(self.P * self.m, self.d + 1, device=self.device)
        for odd, half in enumerate(self.halves):
            whole = whole.index_copy(0, self.slots[odd::2], half)
        return whole

    def _write(self, whole: Tensor) -> None:
        for odd, half in enumerate(self.halves):
            half.copy_(whole[odd::2])

    def forward(self, h: Tensor, parents: Tensor | None) -> tuple[Tensor, Tensor]:
        if parents is None:
            slots = self.slots.expand(h.shape[0], -1)
        else:
            slots = (parents.unsqueeze(2) * self.m + torch.arange(self.m)).flatten(1)
        whole = self._whole()
        logits = (self.drop(h) @ whole[:, :-1].T + whole[:, -1]).gather(1, slots)
        return logits.masked_fill(~self.valid[slots], -torch.inf), slots

    def loss_over_all(self, h: Tensor, documents: Tensor, positives: Tensor) -> Tensor:
        logits, _ = self(h, None)
        return heads.slot_losses(logits, self.targets(None, documents, positives, len(h))).sum(1)

    @torch.no_grad()
    def score_all(self, h: Tensor) -> Tensor:
        whole = self._whole()[self.valid]
        return h @ whole[:, :-1].T + whole[:, -1]

    def start_at_random(self) -> None:
        self.start_at_zero()
        torch.empty(self.P * self.m, self.d).uniform_()  # as many random numbers as the dense head draws

    @torch.no_grad()
    def start_at_zero(self) -> None:
        for half in self.halves:
            half.zero_()

    @torch.no_grad()
    def add_to_rows(self, slots: Tensor, vectors: Tensor) -> None:
        whole = self._whole()
        whole[:, :-1].index_add_(0, slots, vectors)
        self._write(whole)

    @torch.no_grad()
    def shift_biases(self, by: float) -> None:
        for half in self.halves:
            half[:, -1] += by

    @torch.no_grad()
    def rows(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        whole = self._whole()[slots]
        return whole[:, :-1], whole[:, -1]

    @torch.no_grad()
    def set_rows(self, slots: Tensor, rows: Tensor, biases: Tensor) -> None:
        whole = self._whole()
        whole[slots] = torch.cat([rows, biases.unsqueeze(1)], dim=1)
        self._write(whole)

    def decay_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        return list(self.halves), []

    def replicated(self) -> list[nn.Parameter]:
        return list(self.halves)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    return prepare(tmp_path_factory.mktemp("run"), small_corpus)


@pytest.mark.parametrize("negatives", ["shortlist", "all"])
def test_another_storage_starts_trains_and_warm_starts_alike(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, negatives: str
) -> None:
    # Biases decay with their rows in the other storage: without decay the two are one computation.
    knobs = {"epochs": 0.5, "head_init": "centroid", "head_weight_decay": 0.0, "checkpoint_minutes": 0.0}
    knobs["negatives"] = negatives
    results = {}
    for storage in ("dense", "halved"):
        if storage == "halved":
            monkeypatch.setattr(
                network, "make_head", lambda children, d, dropout, rows, peers: HalvedHead(children, d, dropout)
            )
            monkeypatch.setattr(heads, "BLOCK", 50)
        cold, warm = tmp_path / storage / "cold", tmp_path / storage / "warm"
        train(prepared, cold, **knobs)
        train(prepared, warm, base=cold / "network", warm_start=True, **knobs)
        model = CascadeXML.load(warm / "network")
        assert isinstance(model.heads[-1], HalvedHead) == (storage == "halved")
        rows = [torch.cat([*head.rows(head.slots)[0], head.rows(head.slots)[1]]) for head in model.heads]
        results[storage] = (rows, rank_tokens(model, TokenStore.open(prepared / "tokens" / "dev"), 10))
    for dense, halved in zip(results["dense"][0], results["halved"][0], strict=True):
        torch.testing.assert_close(halved, dense, atol=1e-4, rtol=1e-3)
    dense, halved = (results[storage][1] for storage in ("dense", "halved"))
    assert (dense.labels == halved.labels).mean() > 0.95
    assert LabelTree.load(prepared / "tree").L > 50
