"""The search against the whole product, on indexes of every kind, small and large."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cascadexml.rankers import search
from cascadexml.rankers.search import InvertedIndex
from cascadexml.ranking import NO_LABEL


@pytest.fixture(autouse=True, scope="module", params=[0, 10**9], ids=["searched", "whole product"])
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "SEARCHED", request.param)
        yield


def zipf(random: np.random.Generator, rows: int, columns: int, entries: int) -> sparse.csr_matrix:
    """Unit rows whose first columns are common and light."""
    column = (columns ** random.random(rows * entries)).astype(np.int64) - 1
    values = (random.random(column.size) * np.log(columns) / np.log(2 + columns / (1 + column))).astype(np.float32)
    found = sparse.csr_matrix((values, (np.repeat(np.arange(rows), entries), column)), shape=(rows, columns))
    norms = np.sqrt(np.asarray(found.multiply(found).sum(axis=1)).ravel())
    found.data /= np.repeat(norms, np.diff(found.indptr)).astype(np.float32)
    return found


def assert_best(index: InvertedIndex, X: sparse.csr_matrix, k: int) -> None:
    """The ranking holds the k greatest of all products of columns that share a term."""
    ranking = index.rank(X, k)
    products = X.toarray().astype(np.float64) @ index.lists.toarray()
    if index.bias is not None:
        products += index.bias
    shared = (X != 0).astype(np.int32) @ (index.lists != 0).astype(np.int32)
    products[shared.toarray() == 0] = -np.inf
    best = -np.sort(-products, axis=1)[:, :k]
    best = np.pad(best, ((0, 0), (0, k - best.shape[1])), constant_values=-np.inf)
    np.testing.assert_allclose(ranking.scores, best, atol=1e-5)
    for labels, scores, row in zip(ranking.labels, ranking.scores, products, strict=True):
        given = labels[labels != NO_LABEL]
        assert np.unique(given).size == given.size
        np.testing.assert_allclose(row[given], scores[: given.size], atol=1e-5)


@pytest.mark.parametrize("k", [1, 10, 200, 5000])
def test_the_nearest_are_those_of_the_whole_product(k: int) -> None:
    random = np.random.default_rng(0)
    documents, texts = zipf(random, 4000, 900, 30), zipf(random, 20, 900, 25)
    assert_best(InvertedIndex(sparse.csr_matrix(documents.T)), texts, k)


@pytest.mark.parametrize("spread", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("k", [1, 20, 200])
def test_weights_of_either_sign_and_biases_count(spread: float, k: int) -> None:
    random = np.random.default_rng(1)
    weights = sparse.csr_matrix(zipf(random, 4000, 900, 30).T)
    weights.data *= random.choice([-0.5, 0.5, 1.0], weights.nnz).astype(np.float32)
    # A column of no entries has the greatest bias of all, and is in no ranking.
    weights = sparse.hstack([weights, sparse.csr_matrix((900, 1), dtype=np.float32)], format="csr")
    bias = np.append(spread * random.standard_normal(4000) - 1, 5.0).astype(np.float32)
    index = InvertedIndex(weights, bias)
    assert_best(index, zipf(random, 20, 900, 25), k)
    assert not (index.rank(zipf(random, 20, 900, 25), k).labels == 4000).any()


def test_what_a_common_term_takes_away_is_reckoned_with() -> None:
    """The first column leads until the term that stands everywhere has been read."""
    lists = np.zeros((3, 4000), dtype=np.float32)
    lists[0, 0], lists[1, 1], lists[2] = 1.0, 0.4, -0.01
    lists[2, 0] = -0.9
    index = InvertedIndex(sparse.csr_matrix(lists))
    found = index.rank(sparse.csr_matrix(np.ones((1, 3), dtype=np.float32)), 1)
    assert found.labels.tolist() == [[1]]
    assert found.scores[0, 0] == pytest.approx(0.39)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_tiny_and_empty_indexes(seed: int, k: int) -> None:
    random = np.random.default_rng(seed)
    V, n = random.integers(1, 6, 2)
    lists = sparse.random(V, n, 0.5, format="csr", dtype=np.float32, random_state=random)
    lists.sort_indices()
    texts = sparse.random(3, V, 0.6, format="csr", dtype=np.float32, random_state=random)
    bias = random.standard_normal(n).astype(np.float32) if seed % 2 else None
    assert_best(InvertedIndex(lists, bias), texts, k)


@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from([None, 1.0, 1.5]))
@settings(deadline=None, max_examples=60)
def test_common_terms_are_not_read_and_ties_go_to_the_lower_column(seed: int, k: int, most: float | None) -> None:
    """Sums of sixty-fourths are exact, so that labels must be those of a plain sort."""
    random = np.random.default_rng(seed)
    n, rare, common = int(random.integers(1500, 4000)), int(random.integers(1, 30)), int(random.integers(1, 9))
    lists = np.zeros((rare + common + 1, n), dtype=np.float32)
    for row in lists[:rare]:
        own = random.permutation(n)[: random.integers(1, 40)]
        row[own] = random.integers(16, 65, own.size) / 64
    lists[rare:-1] = random.integers(0, 3, (common, n)) / 64 * (random.random((common, n)) < random.random())
    texts = random.choice([0.0, 0.5, 1.0], (3, len(lists)), p=[0.2, 0.3, 0.5]).astype(np.float32)
    index = InvertedIndex(sparse.csr_matrix(lists), most=most)
    ranking = index.rank(sparse.csr_matrix(texts), k)
    for labels, scores, row in zip(ranking.labels, ranking.scores, texts @ lists, strict=True):
        capped = np.minimum(row, most or np.inf)
        best = [column for column in np.lexsort((np.arange(n), -capped)) if row[column]][:k]
        assert labels.tolist() == best + [NO_LABEL] * (k - len(best))
        np.testing.assert_array_equal(scores[: len(best)], capped[best])


def test_of_common_terms_only_those_columns_are_looked_up_that_may_be_best(monkeypatch: pytest.MonkeyPatch) -> None:
    random, looked = np.random.default_rng(3), []
    documents, texts = zipf(random, 10_000, 3000, 30), zipf(random, 20, 3000, 25)
    index = InvertedIndex(sparse.csr_matrix(documents.T), searched=True)
    look = index._looked_up
    monkeypatch.setattr(index, "_looked_up", lambda *given: looked.append(given[2].size) or look(*given))
    assert_best(index, texts, 10)
    assert len(looked) >= 5
    assert max(looked) < 1000


@pytest.mark.parametrize("bias", [None, -1.0])
def test_where_all_is_read_the_bits_are_those_of_the_whole_product(bias: float | None) -> None:
    random = np.random.default_rng(4)
    lists, texts = sparse.csr_matrix(zipf(random, 4000, 900, 30).T), zipf(random, 20, 900, 25)
    lists.data *= random.choice([-0.5, 0.5, 1.0], lists.nnz).astype(np.float32)
    start = None if bias is None else (bias + random.random(4000)).astype(np.float32)
    searched, whole = (InvertedIndex(lists, start, searched=way).rank(texts, 300) for way in (True, False))
    np.testing.assert_array_equal(searched.labels, whole.labels)
    np.testing.assert_array_equal(searched.scores, whole.scores)


@pytest.mark.parametrize("twice", [False, True])
def test_lists_that_do_not_rise_are_read_whole(twice: bool) -> None:
    """Files may hold such, and columns cannot be looked up in them."""
    random = np.random.default_rng(3)
    lists, texts = sparse.csr_matrix(zipf(random, 10_000, 3000, 30).T), zipf(random, 20, 3000, 25)
    for start, end in zip(lists.indptr, lists.indptr[1:], strict=False):
        lists.indices[start:end] = lists.indices[start:end][::-1].copy() // (2 if twice else 1)
    lists.has_sorted_indices = lists.has_canonical_format = None
    found, expected = (InvertedIndex(each, searched=True).rank(texts, 10) for each in (lists, summed(lists)))
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def summed(lists: sparse.csr_matrix) -> sparse.csr_matrix:
    """The same with rising indices, each once."""
    found = sparse.csr_matrix(lists.tocoo())
    found.sum_duplicates()
    return found
