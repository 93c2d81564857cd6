"""Large sparse matrices by their rows: as SciPy does it at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cascadexml.labels import rows as rows_module
from cascadexml.labels.rows import Rows, kth_largest, row_norms, row_ranges, top_k, unit_rows


def matrix(seed: int, n: int, V: int, density: float) -> sparse.csr_matrix:
    return sparse.random(n, V, density, "csr", np.float32, np.random.default_rng(seed))


MATRICES = st.builds(
    matrix, st.integers(0, 10_000), st.integers(0, 30), st.integers(1, 9), st.sampled_from([0.0, 0.2, 1.0])
)


@settings(deadline=None, max_examples=50)
@given(parts=st.lists(st.builds(matrix, st.integers(0, 99), st.integers(0, 30), st.just(7), st.just(0.3)), max_size=6))
def test_rows_put_together_are_those_of_all_parts(parts: list[sparse.csr_matrix]) -> None:
    together = Rows(7, np.float32)
    for part in parts:
        together.append(part)
    whole = together.matrix()
    expected = np.concatenate([np.zeros((0, 7), np.float32), *(part.toarray() for part in parts)])
    assert whole.dtype == np.float32
    assert np.array_equal(whole.toarray(), expected)


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(0, 9), max_size=30), budget=st.integers(1, 20))
def test_ranges_hold_all_rows_in_order_within_the_budget(sizes: list[int], budget: int) -> None:
    ranges = list(row_ranges(np.array(sizes, dtype=np.int64), budget))
    assert [row for start, end in ranges for row in range(start, end)] == list(range(len(sizes)))
    assert all(end - start == 1 or sum(sizes[start:end]) <= budget for start, end in ranges)


@settings(deadline=None, max_examples=50)
@given(Z=MATRICES, in_place=st.booleans())
def test_unit_rows_equal_the_dense_formula(Z: sparse.csr_matrix, in_place: bool) -> None:
    dense = Z.toarray().astype(np.float64)
    lengths = np.linalg.norm(dense, axis=1, keepdims=True)
    np.testing.assert_allclose(row_norms(Z), lengths[:, 0], rtol=1e-6)
    expected = np.divide(dense, lengths, out=np.zeros_like(dense), where=lengths > 0)
    unit = unit_rows(Z, in_place=in_place)
    np.testing.assert_allclose(unit.toarray(), expected, atol=1e-6)
    assert in_place or np.array_equal(Z.toarray(), dense.astype(np.float32))
    assert not unit.nnz or np.shares_memory(unit_rows(unit).data, unit.data)


def test_chunks_change_no_length(monkeypatch: pytest.MonkeyPatch) -> None:
    Z = matrix(0, 200, 50, 0.3)
    whole = unit_rows(Z)
    monkeypatch.setattr(rows_module, "ENTRIES", 10)
    assert np.array_equal(unit_rows(Z).toarray(), whole.toarray())


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(st.lists(st.integers(0, 5), max_size=40), min_size=1, max_size=20),
    k=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_the_largest_of_each_row_are_those_of_a_sort(rows: list[list[int]], k: int, seed: int) -> None:
    dense = np.zeros((len(rows), 40), dtype=np.float32)
    for row, values in enumerate(rows):
        dense[row, : len(values)] = values
    dense = dense[:, np.random.default_rng(seed).permutation(40)]
    expected = np.zeros_like(dense)
    for row, values in enumerate(dense):
        first = np.lexsort((np.arange(40), -values))[:k]
        expected[row, first] = values[first]
    assert np.array_equal(top_k(sparse.csr_matrix(dense), k).toarray(), expected)


@settings(deadline=None, max_examples=100)
@given(rows=st.lists(st.lists(st.floats(-9, 9), min_size=1, max_size=40), max_size=20), k=st.integers(1, 12))
def test_the_kth_largest_is_that_of_a_sort(rows: list[list[float]], k: int) -> None:
    counts = np.array([len(row) for row in rows], dtype=np.int64)
    found = kth_largest(np.concatenate([np.zeros(0), *map(np.array, rows)]), counts, k)
    assert found.tolist() == [sorted(row, reverse=True)[k - 1] if len(row) >= k else -np.inf for row in rows]
