"""Label features against slow dense computations of the same formulas, on random and on real data."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cascadexml.config import ClusterSettings
from cascadexml.data.corpus import Corpus
from cascadexml.labels import features
from cascadexml.labels.features import label_features, label_walk, pifa, smooth


def random_problem(seed: int, N: int, L: int, V: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Synthetic, with ties; some labels have no documents, some documents no labels."""
    random = np.random.default_rng(seed)
    X = random.integers(1, 4, (N, V)) * (random.random((N, V)) < 0.3)
    Y = random.random((N, L)) < random.random(L) * 0.4
    return sparse.csr_matrix(X, dtype=np.float32), sparse.csr_matrix(Y, dtype=np.float32)


PROBLEMS = st.builds(random_problem, st.integers(0, 10_000), st.integers(1, 15), st.integers(1, 12), st.integers(1, 10))


def dense_top(matrix: np.ndarray, k: int) -> np.ndarray:
    kept = np.zeros_like(matrix)
    for row, values in enumerate(matrix):
        for column in sorted(range(values.size), key=lambda c: (-values[c], c))[:k]:
            kept[row, column] = values[column]
    return kept


def dense_unit(matrix: np.ndarray) -> np.ndarray:
    return np.array([row / math.sqrt((row**2).sum()) if row.any() else row for row in matrix])


def dense_walk(Y: np.ndarray, hops: int, restart: float, neighbours: int) -> np.ndarray:
    L = Y.shape[1]
    M = np.zeros((L, L))
    for document in Y:
        mine = np.flatnonzero(document)
        for label in mine:
            M[label, mine] += 1 / Y[:, label].sum() / mine.size
    walk = sum(restart * (1 - restart) ** h * np.linalg.matrix_power(M, h + 1) for h in range(hops))
    # Rounding must not decide between equal weights.
    walk = np.round(walk, 9)
    others = dense_top(walk - np.diag(np.diag(walk)), neighbours)
    A = others + np.diag(np.diag(walk))
    rows, columns = A.sum(1), A.sum(0)
    return np.array(
        [[A[i, j] / math.sqrt(rows[i] * columns[j]) if A[i, j] else 0.0 for j in range(L)] for i in range(L)]
    )


@settings(deadline=None, max_examples=50)
@given(problem=PROBLEMS, k=st.integers(1, 12))
def test_pifa_equals_the_dense_formula(problem, k: int) -> None:
    X, Y = problem
    Z = pifa(X, Y, k)
    expected = dense_unit(dense_top(Y.toarray().T @ X.toarray(), k))
    assert Z.shape == expected.shape
    assert Z.dtype == np.float32
    np.testing.assert_allclose(Z.toarray(), expected, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(problem=PROBLEMS, hops=st.integers(1, 4), restart=st.floats(0.1, 1.0))
def test_walk_equals_the_dense_formula(problem, hops: int, restart: float) -> None:
    _, Y = problem
    L = Y.shape[1]
    A = label_walk(Y, hops, restart, neighbours=L)
    np.testing.assert_allclose(A.toarray(), dense_walk(Y.toarray(), hops, restart, L), atol=1e-6)


def test_walk_keeps_the_heaviest_neighbours_and_the_diagonal(small_corpus: Corpus) -> None:
    Y = small_corpus.splits["train"].Y[:, : small_corpus.vocabulary.L]
    full = label_walk(Y, 3, 0.8, neighbours=Y.shape[1]).toarray()
    A = label_walk(Y, 3, 0.8, neighbours=2).toarray()
    assert (np.diag(A) > 0).all()
    assert ((A > 0).sum(1) <= 3).all()
    assert ((A > 0).sum(1) == np.minimum((full > 0).sum(1), 3)).all()
    np.testing.assert_allclose(A[A > 0], dense_walk(Y.toarray(), 3, 0.8, 2)[A > 0], atol=1e-2)


def test_a_walk_goes_on_from_the_heaviest_labels_that_it_can_afford(
    small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Y, share = small_corpus.splits["train"].Y[:, : small_corpus.vocabulary.L], 30
    L = Y.shape[1]
    one_hop, exact = (label_walk(Y, hops, 0.8, neighbours=L) for hops in (1, 3))
    monkeypatch.setattr(features, "WORK", share * L)
    assert (label_walk(Y, 1, 0.8, neighbours=L) != one_hop).nnz == 0
    caplog.set_level("INFO")
    held = label_walk(Y, 3, 0.8, neighbours=L)
    assert one_hop.nnz < held.nnz < exact.nnz
    told = re.search(r"hops went on with ([0-9.]+) % of the weight", caplog.text)

    plain = Y.toarray().astype(np.float64)
    M = (plain.T / plain.sum(0)[:, None]) @ (plain / plain.sum(1)[:, None])
    lengths, kept, whole = (M > 0).sum(1), 0.0, 0.0
    walk, reached = M.copy(), M
    for hop in (1, 2):
        goes_on = np.zeros_like(reached)
        for label, row in enumerate(reached):
            spent = 0
            for other in np.lexsort((np.arange(L), -row)):
                if row[other] and spent < share:
                    goes_on[label, other] = row[other]
                    spent += lengths[other]
        kept, whole = kept + goes_on.sum(), whole + reached.sum()
        reached = goes_on @ M
        walk += 0.2**hop * reached
    roots = np.sqrt(np.outer(walk.sum(1), walk.sum(0)))
    # Where rounding decides between equal weights, the two may go on from different labels.
    assert np.isclose(held.toarray(), walk / roots, atol=1e-4).mean() > 0.99
    assert told is not None
    assert float(told[1]) == pytest.approx(100 * kept / whole, abs=0.1)


def test_rows_of_a_step_are_cut_to_their_heaviest(small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    Y = small_corpus.splits["train"].Y[:, : small_corpus.vocabulary.L]
    L = Y.shape[1]
    exact = label_walk(Y, 1, 0.8, neighbours=L)
    monkeypatch.setattr(features, "ENTRIES", 4 * L)
    cut = label_walk(Y, 1, 0.8, neighbours=L)
    assert (np.diff(cut.indptr) == np.minimum(np.diff(exact.indptr), 4)).all()
    assert (cut.toarray()[exact.toarray() == 0] == 0).all()


@settings(deadline=None, max_examples=50)
@given(problem=PROBLEMS, k=st.integers(1, 12))
def test_smoothing_equals_the_dense_formula(problem, k: int) -> None:
    X, Y = problem
    Z, A = pifa(X, Y, 10), label_walk(Y, 2, 0.5, 3)
    product = np.round(A.toarray().astype(np.float64) @ Z.toarray(), 6)
    smoothed = smooth(Z, A, k)
    kept = smoothed.toarray() > 0
    assert (kept.sum(1) == np.minimum((product > 0).sum(1), k)).all()
    # Whatever rounding does to ties, what is kept is as heavy as what the dense formula keeps.
    expected = dense_top(product, k)
    np.testing.assert_allclose(np.sort(smoothed.toarray(), axis=1), np.sort(dense_unit(expected), axis=1), atol=1e-4)
    np.testing.assert_allclose(smoothed.toarray()[kept], dense_unit(product * kept)[kept], atol=1e-4)


def test_chunks_do_not_change_the_result(small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    train, L = small_corpus.splits["train"], small_corpus.vocabulary.L
    knobs = ClusterSettings(top_features=50)
    whole = label_features(train.texts, train.Y[:, :L], knobs)
    done: dict[str, list[int]] = {}
    monkeypatch.setattr(features, "BUDGET", 200)
    chunked = label_features(
        train.texts, train.Y[:, :L], knobs, lambda what, rows, total, _: done.setdefault(what, []).append(rows)
    )
    assert (whole != chunked).nnz == 0
    assert all(len(rows) > 5 and rows[-1] == L for rows in done.values())
    assert len(done) == 4


def test_label_features_are_unit_rows_of_limited_size(small_corpus: Corpus) -> None:
    train, L = small_corpus.splits["train"], small_corpus.vocabulary.L
    Z = label_features(train.texts, train.Y[:, :L], ClusterSettings(top_features=30))
    assert Z.shape[0] == L
    assert np.diff(Z.indptr).max() == 30
    np.testing.assert_allclose(sparse.linalg.norm(Z, axis=1), 1.0, rtol=1e-5)
    plain = label_features(train.texts, train.Y[:, :L], ClusterSettings(top_features=30, hops=0))
    assert (plain != Z).nnz > 0


def test_features_of_many_labels_are_as_many_as_fit(
    small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train, L = small_corpus.splits["train"], small_corpus.vocabulary.L
    monkeypatch.setattr(features, "FEATURES", 7 * L + 3)
    caplog.set_level("INFO")
    Z = label_features(train.texts, train.Y[:, :L], ClusterSettings(top_features=100))
    assert np.diff(Z.indptr).max() == 7
    assert f"label features: 7 a label instead of 100, so that those of {L} labels fit" in caplog.text
    few = label_features(train.texts, train.Y[:, :L], ClusterSettings(top_features=7))
    assert (few != Z).nnz == 0


def test_labels_without_documents_and_a_single_label(small_corpus: Corpus) -> None:
    texts = small_corpus.splits["train"].texts
    Y = sparse.csr_matrix((np.ones(10, dtype=np.float32), (range(10), [0] * 10)), shape=(len(texts), 3))
    Z = label_features(texts, Y, ClusterSettings())
    assert np.diff(Z.indptr).tolist()[1:] == [0, 0]
    assert Z[0].nnz > 0
    assert np.isfinite(Z.data).all()
    alone = label_features(texts, Y[:, :1], ClusterSettings())
    np.testing.assert_allclose(alone.toarray(), Z[:1].toarray(), atol=1e-6)
