"""Calibration on synthetic scores whose true probabilities are known."""

import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from cascadexml.errors import FormatError
from cascadexml.evaluation.calibration import (
    Calibration,
    best_threshold,
    expected_calibration_error,
    fit_calibration,
    reliability,
    suggestions,
)
from cascadexml.ranking import NO_LABEL, Ranking

FINITE = st.floats(-50, 50)
CALIBRATIONS = st.builds(Calibration, st.floats(1e-3, 50), FINITE, st.floats(0, 1))


def logit(p):
    return np.log(p / (1 - p))


def drawn(N, K, slope, intercept, seed=0):
    """(ranking, Y) where a label with score s is right with probability sigmoid(slope · logit(s) + intercept)."""
    rng = np.random.default_rng(seed)
    ranking = Ranking.from_scores(rng.beta(0.5, 3, (N, K)).clip(1e-4, 0.999).astype(np.float32), K)
    probability = 1 / (1 + np.exp(-(slope * logit(ranking.scores.astype(np.float64)) + intercept)))
    right = rng.random((N, K)) < probability
    Y = sparse.csr_matrix((np.ones(right.sum()), (np.nonzero(right)[0], ranking.labels[right])), shape=(N, K))
    return ranking, Y


def test_a_known_sigmoid_is_found_again():
    ranking, Y = drawn(4000, 10, 1.7, -0.6)
    found = fit_calibration(ranking, Y)
    assert found.slope == pytest.approx(1.7, abs=0.05)
    assert found.intercept == pytest.approx(-0.6, abs=0.1)
    scores, hits = suggestions(*drawn(4000, 10, 1.7, -0.6, seed=1), 10)
    assert expected_calibration_error(found.apply(scores), hits) < 0.01
    assert expected_calibration_error(scores, hits) > 0.03


def test_the_fit_equals_logistic_regression():
    ranking, Y = drawn(300, 10, 0.8, 0.5)
    scores, hits = suggestions(ranking, Y, 10)
    # Platt's smoothed targets, as weights of a right and a wrong copy of each candidate.
    right, wrong = hits.sum(), (~hits).sum()
    target = np.where(hits, (right + 1) / (right + 2), 1 / (wrong + 2))
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    reference.fit(
        np.tile(logit(scores), 2)[:, None],
        np.repeat([1, 0], scores.size),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    found = fit_calibration(ranking, Y)
    assert found.slope == pytest.approx(reference.coef_[0, 0], abs=1e-3)
    assert found.intercept == pytest.approx(reference.intercept_[0], abs=2e-3)


def test_ranks_stay_even_where_scores_mislead():
    # The lower the score, the more often it is right: the best slope would be negative.
    ranking, Y = drawn(300, 10, -1.0, -2.0)
    found = fit_calibration(ranking, Y)
    assert found.slope > 0
    assert (np.diff(found.calibrated(ranking).scores, axis=1) <= 0).all()


@settings(deadline=None, max_examples=60)
@given(CALIBRATIONS, hnp.arrays(np.float32, (2, 6), elements=st.floats(0, 1, width=32)))
def test_probabilities_lie_in_0_1_and_keep_the_order(calibration, scores):
    ranking = Ranking.from_scores(scores, 8)
    found = calibration.calibrated(ranking)
    np.testing.assert_array_equal(found.labels, ranking.labels)
    inside = found.scores[:, :6]
    assert ((inside >= 0) & (inside <= 1)).all()
    assert (np.diff(inside, axis=1) <= 0).all()
    assert np.isneginf(found.scores[:, 6:]).all()
    assert (calibration.apply(np.array([-np.inf])) == 0).all()


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float64, st.integers(1, 12), elements=st.sampled_from([0.05, 0.2, 0.5, 0.7, 0.95])),
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


def test_labels_outside_the_candidates_count_as_missed():
    ranking, Y = drawn(500, 10, 1.0, 0.0)
    wider = sparse.csr_matrix(sparse.hstack([Y, np.ones((500, 20))]))
    # The more is missed whatever is done, the more a further hit is worth against a further error.
    assert fit_calibration(ranking, wider).threshold < fit_calibration(ranking, Y).threshold


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_nothing_to_fit_on_leaves_scores_as_they_are(right, caplog):
    ranking = Ranking.from_scores(np.array([[0.3, 0.9], [0.6, 0.2]], np.float32), 2)
    Y = sparse.csr_matrix(np.full((2, 2), right))
    with caplog.at_level(logging.WARNING):
        found = fit_calibration(ranking, Y)
    assert found == Calibration(1.0, 0.0, 0.5)
    assert "No calibration" in caplog.text
    np.testing.assert_allclose(found.apply(ranking.scores), ranking.scores, rtol=1e-5)


def test_no_document_at_all():
    empty = Ranking(np.zeros((0, 5), np.int32), np.zeros((0, 5), np.float32))
    assert fit_calibration(empty, sparse.csr_matrix((0, 3))) == Calibration()


def test_places_without_a_label_are_no_candidates():
    ranking, Y = drawn(300, 10, 1.3, 0.2)
    padded = Ranking(
        np.pad(ranking.labels, ((0, 0), (0, 5)), constant_values=NO_LABEL),
        np.pad(ranking.scores, ((0, 0), (0, 5)), constant_values=-np.inf),
    )
    assert fit_calibration(padded, Y) == fit_calibration(ranking, Y)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30), st.integers(1, 12))
def test_calibration_error_equals_its_definition(pairs, bins):
    probabilities = np.array([p for p, _ in pairs], dtype=np.float64)
    hits = np.array([hit for _, hit in pairs], dtype=bool)
    error = 0.0
    for b in range(bins):
        inside = [(p, hit) for p, hit in pairs if min(int(p * bins), bins - 1) == b]
        if inside:
            confidence = sum(p for p, _ in inside) / len(inside)
            error += len(inside) / len(pairs) * abs(confidence - sum(hit for _, hit in inside) / len(inside))
    assert expected_calibration_error(probabilities, hits, bins) == pytest.approx(error)
    assert reliability(probabilities, hits, bins).size.sum() == len(pairs)


@settings(deadline=None, max_examples=30)
@given(calibration=CALIBRATIONS)
def test_what_is_saved_reads_back_equal(tmp_path_factory, calibration):
    path = tmp_path_factory.mktemp("calibration") / "calibration.json"
    calibration.save(path)
    assert Calibration.load(path) == calibration


@pytest.mark.parametrize(
    "change",
    [
        {"slope": 0}, {"slope": -1.0}, {"slope": "1"}, {"slope": True},
        {"intercept": None}, {"intercept": float("nan")}, {"threshold": 1.5}, {"version": None},
    ],
)  # fmt: skip
def test_other_content_is_refused(tmp_path, change):
    path = tmp_path / "calibration.json"
    Calibration(1.2, -0.3, 0.4).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FormatError, match="make it again"):
        Calibration.load(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "install a newer cascadexml"),
        ({"kind": "cascadexml.tree"}, "expected a 'cascadexml.calibration'"),
    ],
)
def test_another_version_or_kind_is_refused_by_name(tmp_path, change, said):
    path = tmp_path / "calibration.json"
    Calibration(1.2, -0.3, 0.4).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(FormatError, match=said):
        Calibration.load(path)


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "calibration.json"
    with pytest.raises(FormatError, match=r"calibration\.json"):
        Calibration.load(path)
    Calibration().save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-5], b"", b"[]", b"3", whole.replace(b"slope", b"slops"), b"\xff" + whole):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"calibration\.json"):
            Calibration.load(path)
