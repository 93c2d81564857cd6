import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

from cascadexml.monitoring import effects
from cascadexml.monitoring.effects import (
    category_distance,
    domain_auc,
    js_divergence,
    label_distance,
    null_divergences,
    shift,
)
from tests.support.label_matrices import random_labels

samples = st.lists(st.floats(-50, 50), min_size=3, max_size=30)


@given(samples, samples)
def test_shift_is_the_area_between_the_distribution_functions(one: list[float], other: list[float]) -> None:
    a, b = np.array(one), np.array(other)
    found = shift(a, b)
    scale = a.std() or np.concatenate([a, b]).std()
    if scale < 1e-6:
        return
    points = sorted({*one, *other})
    area = sum((high - low) * abs(np.mean(a <= low) - np.mean(b <= low)) for low, high in itertools.pairwise(points))
    assert found.value == pytest.approx(area / scale, rel=1e-6, abs=1e-9)
    gap = max(abs(np.mean(a <= x) - np.mean(b <= x)) for x in points)
    if gap == 0:
        assert found == (0.0, 1.0)


def test_the_p_value_of_a_shift_is_that_of_permutations() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 150), rng.normal(0.25, 1, 100)
    both, points = np.concatenate([a, b]), np.sort(np.concatenate([a, b]))

    def gap(first: Any, second: Any) -> float:
        ours, theirs = (np.searchsorted(np.sort(side), points, side="right") / side.size for side in (first, second))
        return float(np.abs(ours - theirs).max())

    observed = gap(a, b)
    drawn = [gap(p[:150], p[150:]) for p in (rng.permutation(both) for _ in range(2000))]
    assert shift(a, b).p_value == pytest.approx(np.mean(np.array(drawn) >= observed - 1e-12), abs=0.03)


def test_category_distance_agrees_with_a_plain_count() -> None:
    one = ["Book"] * 60 + ["Thesis"] * 30 + ["Article"] * 9 + ["Map"]
    other = ["Book"] * 20 + ["Thesis"] * 25 + ["Report"] * 5
    found = category_distance(pa.chunked_array([one]), pa.chunked_array([other[:10], other[10:]]))
    p, q = ({key: n / len(x) for key, n in Counter(x).items()} for x in (one, other))
    divergence = 0.0
    for key in {*p, *q}:
        middle = (p.get(key, 0) + q.get(key, 0)) / 2
        divergence += sum(x * math.log2(x / middle) / 2 for x in (p.get(key, 0), q.get(key, 0)) if x)
    assert found.value == pytest.approx(math.sqrt(divergence))
    # Article 9, Map 1 and Report 5 are rarer than 10 in both together.
    table = [[60, 30, 10], [20, 25, 5]]
    total, statistic = 150, 0.0
    for row, column in itertools.product(range(2), range(3)):
        expected = sum(table[row]) * (table[0][column] + table[1][column]) / total
        statistic += (table[row][column] - expected) ** 2 / expected
    assert found.p_value == pytest.approx(stats.chi2.sf(statistic, 2))


def test_equal_and_disjoint_categories() -> None:
    book, thesis = pa.chunked_array([["Book"] * 50]), pa.chunked_array([["Thesis"] * 50])
    assert category_distance(book, book) == (0.0, 1.0)
    apart = category_distance(book, thesis)
    assert apart.value == pytest.approx(1.0)
    assert apart.p_value < 1e-10


@pytest.mark.parametrize("distance", [0.0, 0.5, 1.5])
def test_the_domain_classifier_reaches_the_area_that_gaussians_allow(distance: float) -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(1500, 8)), rng.normal(size=(1200, 8))
    other[:, 3] += distance
    found = domain_auc(one, other)
    # Two unit Gaussians at a distance: the best classifier's area is that of a normal difference. Without a distance
    # what a fold learns is wrong of the rest, so that the area lies a little below one half.
    assert found.value == pytest.approx(stats.norm.cdf(distance / math.sqrt(2)), abs=0.05)
    assert (found.p_value < 0.001) == (distance > 0)
    assert domain_auc(one, other) == found


def test_too_few_vectors_tell_nothing() -> None:
    assert domain_auc(np.ones((4, 2)), np.zeros((100, 2))) == (0.5, 1.0)


def test_label_distance_agrees_with_a_slow_count() -> None:
    rng = np.random.default_rng(2)
    Y_train, Y = random_labels(rng, 60, 20), random_labels(rng, 25, 24)
    L, draws = 20, 150

    def divergence(uses: Counter[int], train: Counter[int]) -> float:
        uses = Counter({label if train[label] else L: 0 for label in uses}) + Counter(
            itertools.chain.from_iterable([label if train[label] else L] * n for label, n in uses.items())
        )
        n, m = sum(uses.values()), sum(train.values())
        found = 0.0
        for label in {*uses, *train}:
            p, q = uses[label] / n, train[label] / m
            found += sum(x * math.log2(2 * x / (p + q)) / 2 for x in (p, q) if x)
        return found

    def count(Y: sparse.csr_matrix, rows: Any) -> Counter[int]:
        return Counter(label for row in rows for label in Y[int(row)].indices.tolist())

    train = count(Y_train, range(60))
    observed = divergence(count(Y, range(25)), train)
    random = np.random.default_rng(5)
    null = []
    for _ in range(draws):
        drawn = random.choice(60, 25, replace=False)
        null.append(divergence(count(Y_train, drawn), count(Y_train, set(range(60)) - set(drawn.tolist()))))
    found = label_distance(Y_train, Y, null_divergences(Y_train, 25, draws, seed=5))
    assert found.value == pytest.approx(observed - np.mean(null), abs=1e-9)
    assert found.p_value == pytest.approx((1 + sum(x >= observed for x in null)) / (draws + 1))


def test_the_null_is_the_same_however_many_draws_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Y = random_labels(np.random.default_rng(3), 80, 30)
    whole = null_divergences(Y, 20, 25, seed=1)
    for cells in (1, 70, 200):
        monkeypatch.setattr(effects, "_CELLS_AT_ONCE", cells)
        np.testing.assert_array_equal(null_divergences(Y, 20, 25, seed=1), whole)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_divergence_lies_between_0_and_1_and_is_symmetric(seed: int) -> None:
    p, q = np.random.default_rng(seed).dirichlet(np.full(6, 0.3), 2)
    assert 0 <= js_divergence(p, q) <= 1
    assert js_divergence(p, q) == pytest.approx(float(js_divergence(q, p)))
    assert js_divergence(p, p) == pytest.approx(0.0, abs=1e-12)
