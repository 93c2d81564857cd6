"""A lean head scores and learns as a dense one, by plain computation: what is thinned and rounded keeps its mean."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cascadexml.rankers.cascade import lean_head
from cascadexml.rankers.cascade.heads import DenseHead, Head, shortlist_loss
from cascadexml.rankers.cascade.lean_head import LeanHead

D = 6


def pair(children: list[int], **options: Any) -> tuple[LeanHead, DenseHead]:
    """A lean head with exact rows and residuals, unless told otherwise, and a dense head of the same rows."""
    torch.manual_seed(0)
    dense = DenseHead(torch.tensor(children), D, 0.0)
    torch.nn.init.normal_(dense.weight)
    torch.nn.init.normal_(dense.bias)
    lean = LeanHead(torch.tensor(children), D, 0.0, **{"dtype": torch.float32, "fineness": None, **options})
    lean.set_rows(lean.slots, *dense.rows(dense.slots))
    return lean, dense


def learn(head: Head, h: Tensor, parents: Tensor | None, targets: Tensor) -> Tensor:
    """One backward pass; the gradient of h."""
    h = h.clone().requires_grad_()
    logits, _ = head(h, parents)
    shortlist_loss(logits, targets).sum().backward()
    assert h.grad is not None
    return h.grad


def gradients(head: LeanHead) -> tuple[Tensor, Tensor]:
    """Rows' and biases' gradients that wait, as whole matrices."""
    rows, biases = torch.zeros(head.P * head.m, head.d), torch.zeros(head.P * head.m)
    for slots, of_rows, of_biases in head._gradients():
        rows[slots] += of_rows
        biases[slots] += of_biases
    return rows, biases


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_scores_and_gradients_are_those_of_a_dense_head(data: st.DataObject) -> None:
    children = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    lean, dense = pair(children)
    B, K = data.draw(st.integers(1, 4)), data.draw(st.integers(1, len(children)))
    parents = torch.tensor([data.draw(st.permutations(range(len(children))))[:K] for _ in range(B)])
    chosen = None if data.draw(st.booleans()) else parents
    h = torch.randn(B, D)
    logits, slots = lean(h, chosen)
    expected, places = dense(h, chosen)
    assert torch.equal(slots, places)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    targets = torch.rand(logits.shape).round()
    torch.testing.assert_close(learn(lean, h, chosen, targets), learn(dense, h, chosen, targets), atol=1e-6, rtol=1e-4)
    rows, biases = gradients(lean)
    assert dense.weight.grad is not None and dense.bias.grad is not None
    torch.testing.assert_close(rows, dense.weight.grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(biases, dense.bias.grad, atol=1e-6, rtol=1e-4)
    square = dense.weight.grad.square().sum() + dense.bias.grad.square().sum()
    torch.testing.assert_close(lean.gradient_square(), square, atol=1e-6, rtol=1e-4)


def learn_all(head: Head, h: Tensor, documents: Tensor, positives: Tensor) -> tuple[Tensor, Tensor]:
    """One backward pass over all slots, a document's loss weighing as much as its number: losses, gradient of h."""
    h = h.clone().requires_grad_()
    losses = head.loss_over_all(h, documents, positives)
    losses.dot(torch.arange(1.0, len(h) + 1)).backward()
    assert h.grad is not None
    return losses.detach(), h.grad


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_learning_from_all_slots_is_that_of_a_dense_head(data: st.DataObject) -> None:
    children = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    lean, dense = pair(children)
    B, real = data.draw(st.integers(1, 4)), dense.slots[dense.valid].tolist()
    pairs = sorted(data.draw(st.sets(st.tuples(st.integers(0, B - 1), st.sampled_from(real)))))
    documents, positives = torch.tensor(pairs, dtype=torch.long).view(-1, 2).T
    h = torch.randn(B, D)
    before = lean_head.UPDATED
    lean_head.UPDATED = data.draw(st.sampled_from([1, 3, before]))
    try:
        found = learn_all(lean, h, documents, positives)
        rows, biases = gradients(lean)
    finally:
        lean_head.UPDATED = before
    torch.testing.assert_close(found, learn_all(dense, h, documents, positives), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rows, dense.weight.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(biases, dense.bias.grad, atol=1e-5, rtol=1e-4)


def test_learning_from_all_slots_touches_few_and_teaches_the_same_in_the_mean() -> None:
    children, documents, positives = [8] * 8, torch.tensor([0]), torch.tensor([5])
    exact, _ = pair(children)
    thinned, _ = pair(children, fineness=4.0)
    h = torch.randn(1, D)
    for head in (exact, thinned):
        head.bias.fill_(-4.0)
    _, back = learn_all(exact, h, documents, positives)
    expected, touched = gradients(exact), []

    def once() -> Tensor:
        thinned.pending.clear()
        # The vector's gradient is that of all slots, thinned or not.
        torch.testing.assert_close(learn_all(thinned, h, documents, positives)[1], back)
        touched.append(thinned.pending[0].slots.numel())
        return torch.cat([each.flatten() for each in gradients(thinned)])

    whole = torch.cat([each.flatten() for each in expected]).detach()
    torch.testing.assert_close(mean_of(4000, once), whole, atol=0.008 * float(whole.abs().max()), rtol=0.1)
    assert 1 <= min(touched) <= max(touched) < 40
    assert exact.pending[0].slots.numel() == 64


def test_a_few_rows_at_a_time_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    children, parents, h = [3, 2, 3, 1, 3], torch.tensor([[4, 0, 2], [1, 3, 0]]), torch.randn(2, D)
    whole, _ = pair(children)
    targets = torch.rand(2, 9).round()
    back = learn(whole, h, parents, targets)
    for name, value in (("GATHERED", 4 * D), ("UPDATED", 2)):
        monkeypatch.setattr(lean_head, name, value)
    few, _ = pair(children)
    torch.testing.assert_close(few(h, parents), whole(h, parents))
    torch.testing.assert_close(learn(few, h, parents, targets), back)
    torch.testing.assert_close(gradients(few), gradients(whole))


def test_updates_are_row_wise_adagrad_with_decay_that_reaches_untouched_rows() -> None:
    lean, _ = pair([2, 2, 2, 1])
    rows, biases = (each.numpy().astype(np.float64) for each in lean.rows(lean.slots))
    squares, bias_squares = np.zeros(8), np.zeros(8)
    rate, decay, factor = 0.3, 0.2, 0.7
    random = torch.Generator().manual_seed(1)
    for step in range(4):
        total, of_biases = np.zeros((8, D)), np.zeros(8)
        # Two micro-batches, of which the second knows other documents; slot 7 is padding, parent 2 is never shown.
        for parents in (torch.tensor([[0, 1], [1, 3]]), torch.tensor([[3, 0]])):
            B = len(parents)
            h, targets = torch.randn(B, D, generator=random), torch.rand(B, 4, generator=random).round()
            learn(lean, h, parents, targets)
            for b in range(B):
                slots = [int(p) * 2 + j for p in parents[b] for j in range(2)]
                real = [slot for slot in slots if slot != 7]
                for place, slot in enumerate(slots):
                    if slot == 7:
                        continue
                    z = rows[slot] @ h[b].numpy() + biases[slot]
                    residual = (1 / (1 + np.exp(-z)) - float(targets[b, place])) / len(real)
                    total[slot] += residual * h[b].numpy()
                    of_biases[slot] += residual
        lean.update(rate, decay, factor)
        rows *= 1 - rate * decay
        for slot in range(8):
            if total[slot].any():
                squares[slot] += np.mean((factor * total[slot]) ** 2)
                rows[slot] -= rate * factor * total[slot] / np.sqrt(squares[slot])
                bias_squares[slot] += (factor * of_biases[slot]) ** 2
                biases[slot] -= rate * factor * of_biases[slot] / np.sqrt(bias_squares[slot])
        assert lean.pending == []
        found = lean.rows(lean.slots)
        np.testing.assert_allclose(found[0].numpy(), rows, atol=1e-5, err_msg=f"step {step}")
        np.testing.assert_allclose(found[1].numpy(), biases, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decay_alone_goes_on_exactly_for_ever(dtype: torch.dtype) -> None:
    lean, _ = pair([2, 2], dtype=dtype)
    before, _ = lean.rows(lean.slots)
    for _ in range(400):
        lean.update(0.1, 0.1)
    after, _ = lean.rows(lean.slots)
    torch.testing.assert_close(after, before * 0.99**400, rtol=1e-5, atol=0.0)


def mean_of(draws: int, once: Callable[[], Tensor]) -> Tensor:
    return torch.stack([once() for _ in range(draws)]).mean(0)


def test_thinned_residuals_teach_the_same_in_the_mean() -> None:
    children, parents = [8] * 8, torch.arange(8).unsqueeze(0)
    exact, _ = pair(children)
    thinned, _ = pair(children, fineness=4.0)
    h = torch.randn(1, D)
    for head in (exact, thinned):
        head.bias.fill_(-4.0)
    targets = torch.zeros(1, 64)
    targets[0, 5] = 1.0
    back = learn(exact, h, parents, targets)
    rows, biases = gradients(exact)
    touched = []

    def once() -> Tensor:
        thinned.pending.clear()
        found = learn(thinned, h, parents, targets)
        touched.append(thinned.pending[0].slots.numel())
        return torch.cat([found.flatten(), *(each.flatten() for each in gradients(thinned))])

    expected = torch.cat([back.flatten(), rows.flatten(), biases.flatten()]).detach()
    found, most = mean_of(4000, once), float(expected.abs().max())
    # The vector's gradient sums over all slots, and scatters more than a row's.
    torch.testing.assert_close(found[:D], expected[:D], atol=0.05 * most, rtol=0.1)
    torch.testing.assert_close(found[D:], expected[D:], atol=0.008 * most, rtol=0.1)
    assert 1 <= min(touched) <= max(touched) < 40
    assert exact.pending[0].slots.numel() == 64


def test_what_is_stored_in_16_bits_is_right_in_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    # Few rows need few random numbers, thousands of times.
    monkeypatch.setattr(lean_head, "NOISE", 4 * D)
    lean, _ = pair([4], dtype=torch.bfloat16)
    values = torch.randn(4, D)

    def once() -> Tensor:
        lean.set_rows(lean.slots, values, torch.zeros(4))
        return lean.rows(lean.slots)[0]

    torch.testing.assert_close(once(), values, rtol=2**-7, atol=0.0)
    torch.testing.assert_close(mean_of(3000, once), values, rtol=2**-7 / 20, atol=0.0)
    # A step far smaller than a row's last bit is not lost either.
    lean.set_rows(lean.slots, torch.ones(4, D), torch.zeros(4))
    for _ in range(200):
        lean.add_to_rows(lean.slots, torch.full((4, D), 2.0**-11))
    assert float(lean.rows(lean.slots)[0].mean()) == pytest.approx(1 + 200 / 2**11, rel=0.03)


def test_processes_share_documents_and_residuals() -> None:
    parents = torch.tensor([[0, 1], [1, 2], [2, 0]])
    h, targets = torch.randn(3, D), torch.rand(3, 4).round()
    whole, _ = pair([2, 2, 2])
    learn(whole, h, parents, targets)
    parts = [pair([2, 2, 2])[0] for _ in range(2)]
    for head, rows in zip(parts, (slice(0, 1), slice(1, 3)), strict=True):
        learn(head, h[rows], parents[rows], targets[rows])
    sent: list[list[Tensor]] = [[], []]
    for head, log in zip(parts, sent, strict=True):
        pending = list(head.pending)
        head.gather(lambda value, log=log: log.append(value) or value)  # type: ignore[misc]
        head.pending = pending
    for head in parts:
        messages = iter([torch.cat(each) for each in zip(*sent, strict=True)])
        head.gather(lambda _, messages=messages: next(messages))  # type: ignore[misc]
        torch.testing.assert_close(gradients(head), gradients(whole))


def test_a_head_that_no_vector_learns_for_learns_all_the_same() -> None:
    lean, dense = pair([2, 2])
    h, parents, targets = torch.randn(2, D), torch.tensor([[0, 1], [1, 0]]), torch.ones(2, 4)
    logits, _ = lean(h, parents)
    shortlist_loss(logits, targets).sum().backward()
    learn(dense, h, parents, targets)
    torch.testing.assert_close(gradients(lean)[0], dense.weight.grad)


def test_rows_start_and_move_as_those_of_any_head() -> None:
    lean, dense = pair([3, 2])
    expected: npt.NDArray[np.float32] = dense.rows(dense.slots)[0].numpy()
    lean.update(0.5, 0.5)
    lean.set_rows(torch.tensor([1]), torch.ones(1, D), torch.tensor([2.0]))
    rows, biases = lean.rows(lean.slots)
    np.testing.assert_allclose(rows.numpy()[[0, 2, 3, 4]], 0.75 * expected[[0, 2, 3, 4]], rtol=1e-6)
    assert torch.equal(rows[1], torch.ones(D))
    assert biases[1] == 2.0
    lean.shift_biases(1.0)
    h = torch.randn(3, D)
    scores = h @ lean.rows(lean.slots)[0].T + lean.rows(lean.slots)[1]
    torch.testing.assert_close(lean.score_all(h), scores[:, :5])
    assert biases[1] + 1 == lean.rows(torch.tensor([1]))[1]
    lean.start_at_zero()
    lean.add_to_rows(torch.tensor([2, 0, 2]), torch.ones(3, D))
    assert lean.rows(lean.slots)[0][:, 0].tolist() == [1.0, 0.0, 2.0, 0.0, 0.0, 0.0]
