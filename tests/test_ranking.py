import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from cascadexml.errors import FormatError
from cascadexml.ranking import NO_LABEL, Ranking

# Few different values, so that there are many ties.
SCORES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])
)


def sorted_slowly(pairs, K):
    """(label, score) pairs by falling score, then rising label, filled up to K."""
    best = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:K]
    return best + [(NO_LABEL, -np.inf)] * (K - len(best))


@settings(deadline=None, max_examples=60)
@given(SCORES, st.integers(1, 12))
def test_dense_scores_are_ranked_as_a_slow_sort_does(scores, K):
    ranking = Ranking.from_scores(scores, K)
    assert ranking.shape == (scores.shape[0], K)
    for n, row in enumerate(scores):
        expected = sorted_slowly(list(enumerate(row.tolist())), K)
        assert list(zip(ranking.labels[n].tolist(), ranking.scores[n].tolist(), strict=True)) == expected


@settings(deadline=None, max_examples=60)
@given(SCORES, st.integers(1, 12))
def test_only_stored_entries_of_sparse_scores_are_ranked(scores, K):
    ranking = Ranking.from_scores(sparse.csr_matrix(scores), K)
    for n, row in enumerate(scores):
        expected = sorted_slowly([(label, score) for label, score in enumerate(row.tolist()) if score], K)
        assert list(zip(ranking.labels[n].tolist(), ranking.scores[n].tolist(), strict=True)) == expected


@pytest.mark.parametrize("K", [1, 5, 40, 2999])
@pytest.mark.parametrize("levels", [2, 50, 10**6])
def test_of_many_scores_the_same_are_found(K, levels):
    """Where many are ranked for few, a bar is found without a look at all of them twice."""
    scores = (np.random.default_rng(K).integers(0, levels, (3, 9001)) / levels).astype(np.float32)
    ranking = Ranking.from_scores(scores, K)
    for n, row in enumerate(scores):
        expected = sorted_slowly(list(enumerate(row.tolist())), K)
        assert list(zip(ranking.labels[n].tolist(), ranking.scores[n].tolist(), strict=True)) == expected


@settings(deadline=None, max_examples=20)
@given(scores=SCORES)
def test_what_is_saved_reads_back_equal(tmp_path_factory, scores):
    path = tmp_path_factory.mktemp("ranking") / "ranking.npz"
    ranking = Ranking.from_scores(scores, 4)
    ranking.save(path)
    found = Ranking.load(path)
    np.testing.assert_array_equal(found.labels, ranking.labels)
    np.testing.assert_array_equal(found.scores, ranking.scores)
    assert (found.labels.dtype, found.scores.dtype) == (np.int32, np.float32)


def test_damaged_missing_and_pickled_files_are_refused(tmp_path):
    path = tmp_path / "ranking.npz"
    with pytest.raises(FormatError, match=r"ranking\.npz"):
        Ranking.load(path)
    Ranking.from_scores(np.random.default_rng(0).random((50, 20)), 10).save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-40], whole[: len(whole) // 2], b"", b"no npz at all"):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"ranking\.npz"):
            Ranking.load(path)
    np.savez(path, labels=np.array([[object()]]), scores=np.zeros((1, 1)))
    with pytest.raises(FormatError, match=r"ranking\.npz"):
        Ranking.load(path)


def test_labels_and_scores_of_unlike_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(N, K\)"):
        Ranking(np.zeros((2, 3), np.int32), np.zeros((2, 2), np.float32))
