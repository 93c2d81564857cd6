"""A head in several processes scores, learns and starts as one that holds all rows; the processes are threads here."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cascadexml.rankers.cascade.heads import shortlist_loss
from cascadexml.rankers.cascade.lean_head import LeanHead
from cascadexml.rankers.cascade.network import make_head
from cascadexml.rankers.cascade.sharded_head import ShardedHead

D = 6
T = TypeVar("T")


@dataclass
class Room:
    """Where threads meet: each leaves a tensor, and all see what all left."""

    size: int
    left: list[Tensor] = field(init=False)
    barrier: threading.Barrier = field(init=False)

    def __post_init__(self) -> None:
        self.left = [torch.empty(0)] * self.size
        self.barrier = threading.Barrier(self.size, timeout=20)


@dataclass(frozen=True)
class Thread:
    """One of the peers."""

    room: Room
    rank: int

    @property
    def size(self) -> int:
        return self.room.size

    def gather_parts(self, value: Tensor) -> list[Tensor]:
        self.room.left[self.rank] = value.detach().clone()
        self.room.barrier.wait()
        found = list(self.room.left)
        self.room.barrier.wait()
        return found

    def sum(self, value: Tensor) -> Tensor:
        return value.copy_(torch.stack(self.gather_parts(value)).sum(0))


def shares(children: Sequence[int], size: int, **options: Any) -> list[ShardedHead]:
    """The shares of a head, with exact rows and residuals unless told otherwise."""
    room = Room(size)
    options = {"dtype": torch.float32, "fineness": None, **options}
    return [ShardedHead(torch.tensor(children), D, 0.0, peers=Thread(room, rank), **options) for rank in range(size)]


def together(heads: Sequence[ShardedHead], work: Callable[[int, ShardedHead], T]) -> list[T]:
    """What each thread's work with its share gives."""
    with ThreadPoolExecutor(len(heads)) as pool:
        return list(pool.map(work, range(len(heads)), heads))


def whole_of(heads: Sequence[ShardedHead]) -> tuple[Tensor, Tensor]:
    """The rows and biases of all shares, by slot; each slot lies in one share."""
    assert torch.equal(torch.cat([head.held for head in heads]), heads[0].slots)
    rows, biases = zip(*(head.rows(head.held) for head in heads), strict=True)
    return torch.cat(rows), torch.cat(biases)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_shares_score_and_learn_as_a_plain_computation_of_all_rows(data: st.DataObject) -> None:
    children = data.draw(st.lists(st.integers(1, 4), min_size=4, max_size=9))
    size = data.draw(st.integers(2, 4))
    # A process may have no document at all.
    B = data.draw(st.lists(st.integers(0, 3), min_size=size, max_size=size).filter(any))
    P, m, K = len(children), max(children), data.draw(st.integers(1, len(children)))
    seed = data.draw(st.integers(0, 99))
    random = np.random.default_rng(seed)
    rows, biases = random.normal(size=(P * m, D)), random.normal(size=P * m)
    heads = shares(children, size)
    h = [random.normal(size=(b, D)) for b in B]
    parents = [np.stack([random.permutation(P)[:K] for _ in range(b)]) if b else np.zeros((0, K), int) for b in B]
    targets = [random.integers(0, 2, size=(b, K * m)).astype(float) for b in B]
    real = np.concatenate([np.arange(m) < c for c in children])

    def work(rank: int, head: ShardedHead) -> tuple[Tensor, Tensor, float]:
        head.set_rows(head.slots, torch.tensor(rows).float(), torch.tensor(biases).float())
        vectors = torch.tensor(h[rank]).float().requires_grad_()
        logits, _ = head(vectors, torch.tensor(parents[rank]))
        shortlist_loss(logits, torch.tensor(targets[rank]).float()).sum().backward()
        assert vectors.grad is not None
        norm = float(head.gradient_norms()[0])
        head.update(0.1, 0.2)
        return logits.detach(), vectors.grad, norm

    found = together(heads, work)
    of_rows, of_biases = np.zeros((P * m, D)), np.zeros(P * m)
    for rank in range(size):
        logits, back = found[rank][0].numpy(), np.zeros((B[rank], D))
        for b in range(B[rank]):
            slots = (parents[rank][b][:, None] * m + np.arange(m)).ravel()
            z = rows[slots] @ h[rank][b] + biases[slots]
            np.testing.assert_allclose(logits[b][real[slots]], z[real[slots]], atol=1e-4)
            assert (logits[b][~real[slots]] == -np.inf).all()
            residuals = (1 / (1 + np.exp(-z)) - targets[rank][b]) * real[slots] / real[slots].sum()
            back[b] = residuals @ rows[slots]
            of_rows[slots] += residuals[:, None] * h[rank][b]
            of_biases[slots] += residuals
        np.testing.assert_allclose(found[rank][1].numpy(), back, atol=1e-4)
    norm = np.sqrt((of_rows**2).sum() + (of_biases**2).sum())
    assert [each[2] for each in found] == pytest.approx([norm] * size, abs=1e-4)
    # The first step of Adagrad goes by the gradient's direction alone: only where there is one to speak of.
    steps = np.sqrt((of_rows**2).mean(1, keepdims=True))
    sure = steps[:, 0] > 1e-4
    expected = (1 - 0.1 * 0.2) * rows - 0.1 * np.divide(of_rows, steps, where=steps > 0, out=np.zeros_like(of_rows))
    after, after_biases = whole_of(heads)
    np.testing.assert_allclose(after.numpy()[sure | (steps[:, 0] == 0)], expected[sure | (steps[:, 0] == 0)], atol=2e-3)
    clear = np.abs(of_biases) > 1e-4
    np.testing.assert_allclose(after_biases.numpy()[clear], (biases - 0.1 * np.sign(of_biases))[clear], atol=1e-3)


def alone(children: Sequence[int], **options: Any) -> LeanHead:
    return LeanHead(torch.tensor(children), D, 0.0, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_start_and_are_set_with_the_same_bits_however_many_share_them(dtype: torch.dtype) -> None:
    children = [3, 2, 3, 3, 1, 3, 2]
    slots = torch.tensor([20, 3, 3, 0, 11, 8, 3])
    vectors = torch.randn(7, D)

    def start(head: LeanHead) -> None:
        torch.manual_seed(3)
        head.start_at_random()
        for _ in range(5):
            head.add_to_rows(slots, vectors)
        head.set_rows(slots[3:6], 1.1 * vectors[3:6], vectors[3:6, 0])
        head.shift_biases(0.5)

    whole = alone(children, dtype=dtype)
    start(whole)
    expected = whole.rows(whole.slots)
    for size in (2, 3, 5):
        heads = shares(children, size, dtype=dtype)
        for head in heads:
            start(head)
        assert all(torch.equal(a, b) for a, b in zip(whole_of(heads), expected, strict=True))
        h = torch.randn(2, D)
        torch.testing.assert_close(torch.cat([head.score_all(h) for head in heads], 1), whole.score_all(h))


def test_a_rows_noise_goes_by_its_slot_and_not_by_what_is_rounded_with_it() -> None:
    children = [4] * 8
    documents = torch.randn(3, D)

    def learn(head: LeanHead, first: int) -> None:
        torch.manual_seed(1)
        head.set_rows(head.slots, torch.ones(32, D), torch.zeros(32))
        listed = torch.arange(first, 8).repeat(3, 1)
        logits, _ = head(documents.clone().requires_grad_(), listed)
        shortlist_loss(logits, torch.ones_like(logits)).sum().backward()
        # So small a step that the noise decides each element.
        head.update(1e-3, 0.0)

    few, many = alone(children, fineness=None), alone(children, fineness=None)
    learn(few, 4)
    learn(many, 0)
    rows = [head.rows(torch.arange(16, 32))[0] for head in (few, many)]
    # Means are over another number of slots, which Adagrad's first step does not see.
    assert torch.equal(*rows)
    assert len(rows[0].unique()) > 1


def test_a_process_holds_its_share_and_no_more() -> None:
    children, size = [8] * 64, 4
    everything = alone(children)
    heads = shares(children, size, dtype=torch.bfloat16)

    def held(head: LeanHead) -> int:
        state = {**head.state_dict(), **head.training_state()}
        return sum(value.numel() * value.element_size() for value in state.values())

    assert [held(head) for head in heads] == pytest.approx([held(everything) / size] * size, rel=1e-2)
    assert {tuple(head.part()["weight"].shape) for head in heads} == {(128, D)}


@pytest.mark.parametrize(
    ("rows", "parents", "size", "shared"),
    [
        ("bf16", 4, 4, True),
        ("bf16", 3, 4, False),
        ("bf16", 1, 2, False),
        ("dense", 8, 2, False),
        ("bf16", 8, 1, False),
    ],
)
def test_lean_heads_with_a_parent_for_each_process_are_shared(rows: Any, parents: int, size: int, shared: bool) -> None:
    assert make_head(torch.full((parents,), 2), D, 0.0, rows, Thread(Room(size), 0)).shared is shared
    assert not make_head(torch.full((parents,), 2), D, 0.0, rows).shared
