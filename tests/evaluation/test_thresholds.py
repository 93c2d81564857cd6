"""Thresholds against every threshold there could be, tried one by one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from sklearn.metrics import f1_score, precision_score

from cascadexml.evaluation.thresholds import (
    LEAST_GIVEN,
    NEVER,
    best_threshold,
    macro_threshold,
    precision_thresholds,
)
from cascadexml.metrics import macro_f1
from cascadexml.ranking import Ranking

PLACES = st.sampled_from([0.05, 0.2, 0.5, 0.7, 0.95])


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float64, st.integers(1, 12), elements=PLACES),
    st.integers(0, 2**12 - 1),
    st.integers(0, 3),
)
def test_the_threshold_has_the_greatest_micro_f1(probabilities, bits, missed):
    hits = np.array([bool(bits >> i & 1) for i in range(probabilities.size)])

    def micro_f1(threshold):
        truth = np.concatenate([hits, np.ones(missed, dtype=bool)])
        return f1_score(
            truth, np.concatenate([probabilities >= threshold, np.zeros(missed, dtype=bool)]), zero_division=0
        )

    found = best_threshold(probabilities, hits, int(hits.sum()) + missed)
    assert micro_f1(found) == max(micro_f1(t) for t in [*probabilities.tolist(), 1.1])


def test_equal_probabilities_are_taken_together_or_not_at_all():
    """The second alone would be worth taking; with the four wrong ones that are as probable it is not."""
    probabilities = np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.5])
    hits = np.array([True, True, False, False, False, False])
    assert 0.5 < best_threshold(probabilities, hits, positives=2) < 0.9


@settings(deadline=None, max_examples=80)
@given(
    hnp.arrays(np.float64, (4, 6), elements=st.sampled_from([0.1, 0.3, 0.6, 0.9])),
    hnp.arrays(np.bool_, (4, 8)),
)
def test_no_threshold_has_a_greater_macro_f1(scores, truth):
    """Labels 6 and 7 are never candidates, and count where they are true."""
    ranking, Y = Ranking.from_scores(scores, 6), sparse.csr_matrix(truth.astype(np.float32))
    hits = np.take_along_axis(truth, ranking.labels, axis=1).ravel()
    found = macro_threshold(
        ranking.labels.ravel(), ranking.scores.ravel().astype(np.float64), hits, positives=truth.sum(axis=0)
    )
    assert macro_f1(ranking, Y, found) == max(macro_f1(ranking, Y, t) for t in (0.05, 0.2, 0.5, 0.8, NEVER))


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(np.float64, st.integers(1, 200), elements=PLACES), st.integers(0, 2**32 - 1))
def test_a_threshold_for_a_precision_reaches_it_and_none_below_does(probabilities, seed):
    hits = np.random.default_rng(seed).random(probabilities.size) < probabilities
    wanted = [0.3, 0.5, 0.8, 0.95]
    found = precision_thresholds(probabilities, hits, wanted)
    assert found == sorted(found)
    for share, threshold in zip(wanted, found, strict=True):
        enough = {
            t: precision_score(hits, probabilities >= t, zero_division=0) >= share
            for t in sorted({*probabilities.tolist(), threshold} - {math.inf})
            if (probabilities >= t).sum() >= LEAST_GIVEN
        }
        assert [t for t, reached in enough.items() if reached and t < threshold] == []
        assert threshold == NEVER or enough[threshold]


def test_a_few_lucky_candidates_reach_no_precision():
    few, many = LEAST_GIVEN - 1, LEAST_GIVEN
    assert precision_thresholds(np.full(few, 0.9), np.ones(few, dtype=bool), [0.5]) == [NEVER]
    assert precision_thresholds(np.full(many, 0.9), np.ones(many, dtype=bool), [0.5]) == [0.45]


def test_nothing_to_choose_on():
    none, nothing = np.array([]), np.array([], dtype=bool)
    assert macro_threshold(np.array([], dtype=np.int64), none, nothing, np.array([1, 1])) == NEVER
    assert precision_thresholds(none, nothing, [0.5]) == [NEVER]


def test_labels_that_are_never_true_are_not_worth_one_poor_hit():
    """All three taken: (1 + 0 + 2/11) / 3. The first alone: 1 / 2, of the two labels that are true."""
    probabilities, hits = np.array([0.9, 0.8, 0.7]), np.array([True, False, True])
    found = macro_threshold(np.array([0, 1, 2]), probabilities, hits, positives=np.array([1, 0, 10]))
    assert found == pytest.approx(0.85)
