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

from cascadexml.errors import FormatError
from cascadexml.evaluation.calibration import (
    Calibration,
    expected_calibration_error,
    fit_calibration,
    reliability,
    suggestions,
)
from cascadexml.ranking import NO_LABEL, Ranking

FINITE = st.floats(-50, 50)
CALIBRATIONS = st.builds(
    Calibration,
    st.floats(1e-3, 50),
    FINITE,
    st.floats(0, 1),
    bend=st.floats(-9e-4, 50),
    mass=FINITE,
    places=st.integers(1, 20),
)


def logit(p):
    return np.log(p / (1 - p))


def drawn(N, K, slope, intercept, seed=0, bend=0.0, mass=0.0):
    """(ranking, Y) where a label is right with the probability that the module's formula gives for its score."""
    rng = np.random.default_rng(seed)
    ranking = Ranking.from_scores(rng.beta(0.5, 3, (N, K)).clip(1e-4, 0.999).astype(np.float32), K)
    s = ranking.scores.astype(np.float64)
    m = s[:, :10].sum(axis=1, keepdims=True)
    probability = 1 / (1 + np.exp(-(slope * logit(s) + bend * np.log(s) + mass * np.log(m) + intercept)))
    right = rng.random((N, K)) < probability
    Y = sparse.csr_matrix((np.ones(right.sum()), (np.nonzero(right)[0], ranking.labels[right])), shape=(N, K))
    return ranking, Y


def test_a_known_sigmoid_is_found_again():
    ranking, Y = drawn(4000, 10, 1.7, -0.6)
    found = fit_calibration(ranking, Y)
    # The two ends and the mass are free too: what they add stays about nothing.
    assert found.slope == pytest.approx(1.7, abs=0.1)
    assert found.bend == pytest.approx(0.0, abs=0.15)
    assert found.mass == pytest.approx(0.0, abs=0.15)
    assert found.intercept == pytest.approx(-0.6, abs=0.2)
    other, truth = drawn(4000, 10, 1.7, -0.6, seed=1)
    assert expected_calibration_error(*suggestions(found.calibrated(other), truth, 10)) < 0.01
    assert expected_calibration_error(*suggestions(other, truth, 10)) > 0.03


def test_ends_that_bend_apart_and_the_mass_are_found_again():
    found = fit_calibration(*drawn(8000, 10, 0.6, 0.3, bend=0.9, mass=-0.8))
    assert found.slope == pytest.approx(0.6, abs=0.1)
    assert found.bend == pytest.approx(0.9, abs=0.15)
    assert found.mass == pytest.approx(-0.8, abs=0.15)
    assert found.intercept == pytest.approx(0.3, abs=0.25)


def test_of_two_documents_with_a_label_of_one_score_the_one_with_more_such_labels_is_believed_less():
    ranking, Y = drawn(4000, 12, 0.8, 0.0, mass=-1.0)
    crowded, alone = np.full((1, 12), 0.9), np.array([[0.9, *[0.01] * 11]])
    found = fit_calibration(ranking, Y)
    assert found.apply(crowded)[0, 0] < found.apply(alone)[0, 0] - 0.1
    # What stands behind the first places changes nothing.
    crowded[0, 10:] = 0.5
    assert found.apply(crowded)[0, 0] == found.apply(np.full((1, 10), 0.9))[0, 0]


def test_candidates_behind_the_first_places_do_not_blur_the_first():
    """Behind the tenth place all are wrong, whatever their score; the first ten are right as their scores say."""
    ranking, Y = drawn(3000, 10, 1.0, 0.0)
    labels = np.hstack([ranking.labels, np.tile(np.arange(10, 60, dtype=np.int32), (3000, 1))])
    scores = np.hstack([ranking.scores, np.repeat(ranking.scores[:, 9:], 50, axis=1)])
    wide = Ranking(labels, scores)
    Y = sparse.csr_matrix((Y.data, Y.indices, Y.indptr), shape=(3000, 60))
    found = fit_calibration(wide, Y)
    assert expected_calibration_error(*suggestions(found.calibrated(wide), Y, 10)) < 0.01
    assert found.log_odds(ranking.scores).mean() == pytest.approx(logit(ranking.scores).mean(), abs=0.1)


def test_the_fit_equals_logistic_regression():
    ranking, Y = drawn(300, 12, 0.8, 0.5)
    scores, hits = suggestions(ranking, Y, 10)
    mass = np.repeat(ranking.scores[:, :10].astype(np.float64).sum(axis=1), 10)
    X = np.column_stack([np.log(scores), -np.log(1 - scores), np.log(mass)])
    # Platt's smoothed targets, as weights of a right and a wrong copy of each candidate.
    right, wrong = hits.sum(), (~hits).sum()
    target = np.where(hits, (right + 1) / (right + 2), 1 / (wrong + 2))
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    reference.fit(
        np.tile(X, (2, 1)),
        np.repeat([1, 0], scores.size),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    found = fit_calibration(ranking, Y)
    low, high, mass = reference.coef_[0]
    assert [found.slope, found.bend, found.mass] == pytest.approx([high, low - high, mass], abs=3e-3)
    assert found.intercept == pytest.approx(reference.intercept_[0], abs=5e-3)


def test_ranks_stay_even_where_scores_mislead():
    # The lower the score, the more often it is right: the best slope would be negative.
    ranking, Y = drawn(300, 10, -1.0, -2.0)
    found = fit_calibration(ranking, Y)
    assert found.slope > 0 < found.slope + found.bend
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
    assert (calibration.apply(np.array([[-np.inf]])) == 0).all()
    np.testing.assert_array_equal(calibration.calibrated(ranking, 2).scores, found.scores[:, :2])


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
        {"slope": 0}, {"slope": -1.0}, {"slope": "1"}, {"slope": True}, {"bend": -1.2}, {"mass": "0"}, {"places": 0},
        {"places": 2.5}, {"choices": []}, {"choices": {"torso": 10}},
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
        ({"version": 3}, "install a newer cascadexml"),
        ({"version": 1}, "was written by an older cascadexml; make it again"),
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
