"""One resolution's classifier against plain loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadexml.rankers.cascade import heads
from cascadexml.rankers.cascade.heads import DenseHead, pick_shortlist, shortlist_loss


def make_head(children: list[int], d: int = 5, dropout: float = 0.0) -> DenseHead:
    torch.manual_seed(0)
    head = DenseHead(torch.tensor(children), d, dropout)
    head.start_at_random()
    torch.nn.init.normal_(head.bias)
    return head


@pytest.mark.parametrize("dense_ratio", [0, 64])
def test_children_are_scored_as_rows_of_their_parent(monkeypatch: pytest.MonkeyPatch, dense_ratio: int) -> None:
    monkeypatch.setattr(heads, "DENSE_RATIO", dense_ratio)
    head = make_head([3, 2, 3, 1])
    h = torch.randn(2, 5)
    parents = torch.tensor([[2, 1], [3, 0]])
    logits, slots = head(h, parents)
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    for b in range(2):
        for k in range(2):
            parent = int(parents[b, k])
            for offset in range(3):
                slot, found = parent * 3 + offset, logits[b, k * 3 + offset].item()
                assert slots[b, k * 3 + offset] == slot
                if offset < [3, 2, 3, 1][parent]:
                    assert found == pytest.approx(float(weight[slot] @ h[b].numpy() + bias[slot]), abs=1e-5)
                else:
                    assert found == -np.inf


def test_gathered_rows_and_matrix_product_have_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    h = torch.randn(4, 5, dtype=torch.float64)
    parents = torch.tensor([[0, 2], [1, 3], [3, 2], [1, 0]])
    gradients = []
    for ratio in (0, 64):
        monkeypatch.setattr(heads, "DENSE_RATIO", ratio)
        head = make_head([2, 2, 1, 2]).double()
        logits, _ = head(h, parents)
        shortlist_loss(logits, torch.zeros_like(logits)).sum().backward()
        gradients.append((head.weight.grad, head.bias.grad))
    for gathered, dense in zip(*gradients, strict=True):
        torch.testing.assert_close(gathered, dense)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_targets_mark_exactly_the_positives_in_the_shortlist(data: st.DataObject) -> None:
    P, m, B = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    K = data.draw(st.integers(1, P))
    head = make_head([m] * P)
    parents = torch.tensor([data.draw(st.permutations(range(P)))[:K] for _ in range(B)])
    pairs = data.draw(st.sets(st.tuples(st.integers(0, B - 1), st.integers(0, P * m - 1))))
    documents = torch.tensor([b for b, _ in pairs], dtype=torch.long)
    positives = torch.tensor([slot for _, slot in pairs], dtype=torch.long)
    _, slots = head(torch.zeros(B, 5), parents)
    expected = [[float((b, int(slot)) in pairs) for slot in slots[b]] for b in range(B)]
    assert head.targets(parents, documents, positives, B).tolist() == expected
    everything = [[float((b, slot) in pairs) for slot in range(P * m)] for b in range(B)]
    assert head.targets(None, documents, positives, B).tolist() == everything


def test_loss_is_the_mean_over_a_documents_real_slots() -> None:
    logits = torch.tensor([[0.3, -1.2, -torch.inf], [2.0, 0.1, -0.4]], dtype=torch.float64)
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])

    def bce(z: float, y: float) -> float:
        p = 1 / (1 + np.exp(-z))
        return float(-np.log(p if y else 1 - p))

    expected = [
        (bce(0.3, 1) + bce(-1.2, 0)) / 2,
        (bce(2.0, 0) + bce(0.1, 1) + bce(-0.4, 1)) / 3,
    ]
    assert shortlist_loss(logits, targets).tolist() == pytest.approx(expected, rel=1e-6)


def test_the_loss_over_all_is_that_of_every_slot_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "BLOCK", 3)
    head = make_head([3, 2, 3, 1]).double()
    h = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    documents, positives = torch.tensor([0, 0, 2, 3]), torch.tensor([0, 7, 4, 9])
    head.loss_over_all(h, documents, positives).dot(torch.tensor([1.0, 2.0, 3.0, 4.0])).backward()
    found = h.grad, head.weight.grad, head.bias.grad
    weight, bias, x = (each.detach().requires_grad_() for each in (head.weight, head.bias, h))
    targets = torch.zeros(4, 12, dtype=torch.float64)
    targets[documents, positives] = 1
    probabilities = (x @ weight.T + bias).sigmoid()
    losses = -(targets * probabilities.log() + (1 - targets) * (1 - probabilities).log())
    (losses[:, head.valid].sum(1) * torch.tensor([1.0, 2.0, 3.0, 4.0])).sum().backward()
    for one, other in zip(found, (x.grad, weight.grad, bias.grad), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_positives_stay_in_the_shortlist_and_nothing_flows_back() -> None:
    logits = torch.tensor([[40.0, 30.0, -60.0, 20.0, -torch.inf]], requires_grad=True)
    targets = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]])
    slots = torch.arange(5).unsqueeze(0)
    forced, scores = pick_shortlist(logits, slots, 2, targets)
    assert sorted(forced[0].tolist()) == [0, 2]
    assert not scores.requires_grad
    free, _ = pick_shortlist(logits, slots, 2, None)
    assert free[0].tolist() == [0, 1]
    everything, _ = pick_shortlist(logits, slots, 99, None)
    assert sorted(everything[0].tolist()) == [0, 1, 2, 3, 4]


def test_rows_that_are_set_or_added_to_are_those_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "BLOCK", 2)
    head = make_head([3, 2, 3])
    before, biases = (each.numpy().copy() for each in head.rows(head.slots))
    slots, rows = torch.tensor([7, 0, 4]), torch.randn(3, 5)
    head.set_rows(slots, rows, torch.tensor([1.0, 2.0, 3.0]))
    head.add_to_rows(torch.tensor([4, 1, 4]), torch.ones(3, 5))
    head.shift_biases(-0.5)
    before[[7, 0, 4]], biases[[7, 0, 4]] = rows.numpy(), [1, 2, 3]
    before[4], before[1] = before[4] + 2, before[1] + 1
    found = head.rows(head.slots)
    np.testing.assert_allclose(found[0], before, rtol=1e-6)
    np.testing.assert_allclose(found[1], biases - 0.5, rtol=1e-6)
    head.start_at_zero()
    assert all(not each.any() for each in head.rows(head.slots))


def test_rows_are_copied_from_a_head_of_another_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "BLOCK", 2)
    head, other = make_head([4, 4]), make_head([2, 2, 1])
    other.start_at_zero()
    other.set_rows(torch.arange(5), torch.arange(25.0).view(5, 5), torch.arange(5.0))
    kept = head.rows(torch.tensor([0, 2, 4]))
    head.copy_rows(torch.tensor([1, 3, 5, 6, 7]), other, torch.tensor([4, 0, 3, 1, 2]))
    rows, biases = head.rows(torch.tensor([1, 3, 5, 6, 7]))
    assert biases.tolist() == [4, 0, 3, 1, 2]
    assert rows[:, 0].tolist() == [20, 0, 15, 5, 10]
    assert all(torch.equal(a, b) for a, b in zip(kept, head.rows(torch.tensor([0, 2, 4])), strict=True))


def test_all_scores_are_those_of_real_slots_without_dropout_or_gradient() -> None:
    head = make_head([3, 1, 2], dropout=0.9).train()
    h = torch.randn(4, 5, requires_grad=True)
    scores = head.score_all(h)
    assert not scores.requires_grad
    rows, biases = head.rows(torch.tensor([0, 1, 2, 3, 6, 7]))
    np.testing.assert_allclose(scores, h.detach().numpy() @ rows.numpy().T + biases.numpy(), atol=1e-5)


def test_its_loss_is_that_of_the_shortlist() -> None:
    logits, targets = torch.randn(2, 4), torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 0]])
    assert torch.equal(make_head([4]).loss(logits, targets), shortlist_loss(logits, targets))
