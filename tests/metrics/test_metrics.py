"""Metrics against plain-Python definitions and scikit-learn, on synthetic random sparse data."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.metrics import f1_score, ndcg_score, precision_score, recall_score

from cascadexml.config import EvaluateSettings
from cascadexml.errors import ConfigError
from cascadexml.metrics import (
    at_k,
    bootstrap,
    bootstrap_intervals,
    catalogue_coverage,
    coverage,
    differences,
    document_metrics,
    document_ratios,
    evaluate,
    frequency_bins,
    hit_matrix,
    inverse_propensities,
    macro_f1,
    paired_bootstrap,
    threshold_ratio,
)
from cascadexml.ranking import NO_LABEL, Ranking

KS = (1, 2, 3, 5, 8)


def random_labels(rng, N, V, most):
    """(N, V) CSR of ones with 0 to `most` labels a document."""
    rows = [np.sort(rng.choice(V, rng.integers(0, min(most, V) + 1), replace=False)) for _ in range(N)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    indices = np.concatenate(rows).astype(np.int32)
    return sparse.csr_matrix((np.ones(len(indices), np.float32), indices, indptr.astype(np.int32)), shape=(N, V))


@st.composite
def problems(draw):
    """(ranking over L labels, truth over V >= L labels, train labels over L, inverse propensities)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    N, L = draw(st.integers(1, 12)), draw(st.integers(1, 14))
    V = L + draw(st.integers(0, 3))
    K = draw(st.integers(1, 10))
    Y = random_labels(rng, N, V, 6)
    Y_train = sparse.csr_matrix(sparse.hstack([random_labels(rng, 20, L, 4), sparse.csr_matrix((20, V - L))]))
    return Ranking.from_scores(rng.random((N, L)), K), Y, Y_train, inverse_propensities(Y_train, 0.55, 1.5)


def truth_of(Y, n):
    return set(Y[[n]].indices.tolist())


def plain_metrics(ranking, Y, k, weights):
    """The definitions, one document and one place at a time: the split's figures."""
    N = Y.shape[0]
    totals = dict.fromkeys(("P", "R", "F1", "nDCG", "PSP", "PSP_best", "PSnDCG", "PSnDCG_best"), 0.0)
    for n in range(N):
        truth = truth_of(Y, n)
        places = [label for label in ranking.labels[n].tolist()[:k] if label != NO_LABEL]
        right = [label in truth for label in places]
        best = sorted((weights[label] for label in truth), reverse=True)[:k]
        ideal = sum(1 / math.log2(i + 2) for i in range(min(k, len(truth))))
        precision, recall = sum(right) / k, sum(right) / len(truth) if truth else 0.0
        totals["P"] += precision
        totals["R"] += recall
        totals["F1"] += 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        totals["PSP"] += sum(weights[label] for label in places if label in truth) / k
        totals["PSP_best"] += sum(best) / k
        if truth:
            totals["nDCG"] += sum(hit / math.log2(i + 2) for i, hit in enumerate(right)) / ideal
            gained = sum(weights[label] / math.log2(i + 2) for i, label in enumerate(places) if label in truth)
            totals["PSnDCG"] += gained / ideal
            totals["PSnDCG_best"] += sum(w / math.log2(i + 2) for i, w in enumerate(best)) / ideal
    figures = {name: totals[name] / N for name in ("P", "R", "F1", "nDCG")}
    for name in ("PSP", "PSnDCG"):
        figures[name] = totals[name] / totals[f"{name}_best"] if totals[f"{name}_best"] else 0.0
    return figures


@settings(deadline=None, max_examples=60)
@given(problems())
def test_metrics_at_k_equal_their_definitions(problem):
    ranking, Y, _, weights = problem
    found = document_metrics(ranking, Y, KS, weights)
    for k in KS:
        for name, value in plain_metrics(ranking, Y, k, weights).items():
            assert found[f"{name}@{k}"].mean() == pytest.approx(value, abs=1e-12), f"{name}@{k}"


@settings(deadline=None, max_examples=40)
@given(problems())
def test_ratios_of_a_subset_are_the_figures_of_that_subset(problem):
    ranking, Y, _, weights = problem
    half = slice(0, max(1, Y.shape[0] // 2))
    part = document_ratios(Ranking(ranking.labels[half], ranking.scores[half]), Y[half], KS, weights)
    for name, whole in document_ratios(ranking, Y, KS, weights).items():
        np.testing.assert_array_equal(whole.numerator[half], part[name].numerator)
        np.testing.assert_array_equal(whole.denominator[half], part[name].denominator)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 10), st.integers(5, 12))
def test_metrics_equal_scikit_learn(seed, N, V):
    rng = np.random.default_rng(seed)
    Y, scores = random_labels(rng, N, V, 5), rng.random((N, V))
    ranking, dense = Ranking.from_scores(scores, V), Y.toarray()
    found = document_metrics(ranking, Y, (1, 3, 5))
    for k in (1, 3, 5):
        top = np.zeros_like(dense)
        np.put_along_axis(top, np.argsort(-scores, axis=1)[:, :k], 1, axis=1)
        options = {"average": "samples", "zero_division": 0}
        assert found[f"nDCG@{k}"].mean() == pytest.approx(ndcg_score(dense, scores, k=k))
        assert found[f"P@{k}"].mean() == pytest.approx(precision_score(dense, top, **options))
        assert found[f"R@{k}"].mean() == pytest.approx(recall_score(dense, top, **options))
        assert found[f"F1@{k}"].mean() == pytest.approx(f1_score(dense, top, **options))
    predicted = ranking.scores >= 0.6
    chosen = np.zeros_like(dense)
    chosen[np.nonzero(predicted)[0], ranking.labels[predicted]] = 1
    micro = threshold_ratio(ranking, Y, 0.6)
    for name, function in (("micro_P", precision_score), ("micro_R", recall_score), ("micro_F1", f1_score)):
        expected = function(dense, chosen, average="micro", zero_division=0)
        below = micro[name].denominator.sum()
        assert (micro[name].numerator.sum() / below if below else 0.0) == pytest.approx(expected)
    defined = np.flatnonzero((dense + chosen).sum(axis=0))
    expected = f1_score(dense, chosen, labels=defined, average="macro", zero_division=0) if defined.size else 0.0
    assert macro_f1(ranking, Y, 0.6) == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(problems(), st.floats(0, 2), st.floats(0.1, 5))
def test_propensities_equal_the_published_formula(problem, A, B):
    Y_train = problem[2]
    N = Y_train.shape[0]
    for label, found in enumerate(inverse_propensities(Y_train, A, B)):
        uses = sum(label in truth_of(Y_train, n) for n in range(N))
        C = (math.log(N) - 1) * (B + 1) ** A
        assert 1 / found == pytest.approx(1 / (1 + C * math.exp(-A * math.log(uses + B))))


def test_propensity_of_an_unused_label_without_offset_is_refused():
    with pytest.raises(ConfigError, match="propensity_b"):
        inverse_propensities(sparse.csr_matrix(np.array([[1.0, 0.0]])), 0.55, 0.0)


@settings(deadline=None, max_examples=40)
@given(problems())
def test_coverage_and_bins_equal_their_definitions(problem):
    ranking, Y, Y_train, _ = problem
    N, V = Y.shape
    report = evaluate(ranking, Y, Y_train, EvaluateSettings(ks=list(KS), torso=3, head=5, bootstrap_samples=5))
    uses = np.asarray(Y_train.sum(axis=0)).ravel()
    bins = {
        "head": {v for v in range(V) if uses[v] >= 5},
        "torso": {v for v in range(V) if 3 <= uses[v] < 5},
        "tail": {v for v in range(V) if 0 < uses[v] < 3},
        "unseen": {v for v in range(V) if uses[v] == 0},
    }
    pairs = [(n, label) for n in range(N) for label in truth_of(Y, n)]
    for k in KS:
        top = [set(ranking.labels[n, :k].tolist()) - {NO_LABEL} for n in range(N)]
        found = {(n, label) for n, label in pairs if label in top[n]}
        everywhere = len({label for _, label in pairs})
        assert report.figures[f"coverage@{k}"] == len({label for _, label in found}) / max(everywhere, 1)
        rankable, named = set(range(V)) - bins["unseen"], set().union(*top)
        assert report.figures[f"catalogue_coverage@{k}"] == len(named & rankable) / max(len(rankable), 1)
        for name, labels in bins.items():
            inside = [pair for pair in pairs if pair[1] in labels]
            assert report.bins[name].labels == len(labels)
            assert report.bins[name].pairs == len(inside)
            assert report.bins[name].labels_true == len({label for _, label in inside})
            if inside:
                hits = [pair for pair in inside if pair in found]
                assert report.bins[name].figures[f"R@{k}"] == pytest.approx(len(hits) / len(inside))
                reached = len({label for _, label in hits}) / len({label for _, label in inside})
                assert report.bins[name].figures[f"coverage@{k}"] == pytest.approx(reached)
        parts = sum(report.bins[name].figures.get(f"P@{k}_part", 0.0) for name in bins)
        assert parts == pytest.approx(report.figures[f"P@{k}"])


def test_bins_share_out_all_labels_even_when_head_starts_below_torso():
    uses = sparse.csr_matrix(np.tril(np.ones((8, 8))))
    for torso, head in ((2, 5), (5, 2)):
        masks = frequency_bins(uses, torso, head)
        assert np.sum([mask.astype(int) for mask in masks.values()], axis=0).tolist() == [1] * 8


def test_unseen_labels_count_against_recall_and_ndcg():
    # Labels 2 and 3 occur only in test: the ranker cannot give them.
    Y = sparse.csr_matrix(np.array([[1.0, 0, 1, 1]]))
    Y_train = sparse.csr_matrix(np.array([[1.0, 1, 0, 0]] * 20))
    ranking = Ranking.from_scores(np.array([[0.9, 0.1]]), 2)
    found = document_metrics(ranking, Y, [2], inverse_propensities(Y_train, 0.55, 1.5))
    assert found["R@2"][0] == pytest.approx(1 / 3)
    assert found["nDCG@2"][0] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert found["PSP@2"][0] < 0.5
    assert coverage(ranking, Y, np.ones(4, dtype=bool), [2])["coverage@2"] == pytest.approx(1 / 3)
    assert evaluate(ranking, Y, Y_train, EvaluateSettings(ks=[2])).bins["unseen"].figures["R@2"] == 0.0


def test_documents_without_labels_score_zero_and_stay_in_the_mean():
    Y = sparse.csr_matrix(np.array([[1.0, 0], [0, 0]]))
    ranking = Ranking.from_scores(np.array([[0.9, 0.1], [0.9, 0.1]]), 2)
    found = document_metrics(ranking, Y, [1], np.ones(2))
    assert {name: values.tolist()[1] for name, values in found.items()} == dict.fromkeys(found, 0.0)
    assert found["P@1"].mean() == 0.5
    assert found["PSP@1"].mean() == 1.0


def test_places_without_a_label_are_never_hits():
    # Key arithmetic would take NO_LABEL of row n for the last label of row n - 1.
    Y = sparse.csr_matrix(np.array([[0.0, 1], [1, 0]]))
    ranking = Ranking(np.array([[0, NO_LABEL], [1, NO_LABEL]], np.int32), np.array([[1, -np.inf]] * 2, np.float32))
    assert not hit_matrix(ranking, Y).any()
    assert macro_f1(ranking, Y, -np.inf) == 0.0
    assert catalogue_coverage(ranking, np.ones(2, dtype=bool), [2])["catalogue_coverage@2"] == 1.0


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    Y, ranking = random_labels(rng, 50, 20, 6), Ranking.from_scores(rng.random((50, 20)), 8)
    whole, interval = hit_matrix(ranking, Y), bootstrap_intervals(rng.random(50), 40, 7)
    rng = np.random.default_rng(0)
    random_labels(rng, 50, 20, 6), rng.random((50, 20))
    monkeypatch.setattr(at_k, "_DOCUMENTS_A_CHUNK", 7)
    monkeypatch.setattr(bootstrap, "_CELLS_A_CHUNK", 150)
    np.testing.assert_array_equal(hit_matrix(ranking, Y), whole)
    np.testing.assert_array_equal(bootstrap_intervals(rng.random(50), 40, 7), interval)


def test_a_ranking_of_other_documents_or_labels_is_refused():
    Y = sparse.csr_matrix(np.eye(3))
    with pytest.raises(ValueError, match="2 documents, Y has 3"):
        hit_matrix(Ranking.from_scores(np.ones((2, 3)), 1), Y)
    with pytest.raises(ValueError, match="label 4"):
        hit_matrix(Ranking.from_scores(np.eye(3, 5, 2), 1), Y)


def test_unsorted_truth_gives_the_same_hits():
    Y = sparse.csr_matrix((np.ones(3, np.float32), np.array([4, 0, 2]), np.array([0, 2, 3])), shape=(2, 5))
    ranking = Ranking.from_scores(np.tile([0.5, 0.1, 0.2, 0.3, 0.4], (2, 1)), 5)
    np.testing.assert_array_equal(hit_matrix(ranking, Y), [[1, 1, 0, 0, 0], [0, 0, 0, 1, 0]])


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 1), st.integers(1, 40), st.integers(0, 99))
def test_bootstrap_of_a_constant_is_that_constant(value, N, seed):
    low, high = bootstrap_intervals(np.full(N, value), 20, seed)
    assert low == pytest.approx(value)
    assert high == pytest.approx(value)


def test_bootstrap_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    samples = rng.binomial(1, 0.4, (200, 300)).astype(np.float64)
    low, high = bootstrap_intervals(samples, 300, 0)
    assert 0.90 < np.mean((low <= 0.4) & (high >= 0.4)) <= 0.99
    # Against the textbook's standard error of a proportion.
    np.testing.assert_allclose(high - low, 2 * 1.96 * np.sqrt(0.4 * 0.6 / 200), rtol=0.25)


def test_bootstrap_of_a_ratio_resamples_both_sums():
    numerator, denominator = np.array([1.0, 2, 3]), np.array([2.0, 4, 6])
    low, high = bootstrap_intervals(numerator, 50, 0, denominator)
    assert low == high == pytest.approx(0.5)


def test_paired_bootstrap_sees_a_constant_gain_that_noise_hides():
    rng = np.random.default_rng(0)
    b = rng.random(100)
    gain = paired_bootstrap(b + 0.01, b, 200, 0)
    assert gain.difference == pytest.approx(0.01)
    assert gain.low == pytest.approx(0.01)
    assert gain.p_value == pytest.approx(2 / 201)
    same = paired_bootstrap(b, b, 200, 0)
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_differences_are_the_differences_of_the_figures():
    rng = np.random.default_rng(0)
    Y, chosen = random_labels(rng, 60, 12, 4), EvaluateSettings(ks=[1, 5], bootstrap_samples=50)
    a, b = (Ranking.from_scores(rng.random((60, 12)) + bonus * Y.toarray(), 10) for bonus in (0.3, 0.0))
    found = differences(a, b, Y, Y, chosen)
    ours, theirs = (evaluate(each, Y, Y, chosen).figures for each in (a, b))
    for name, difference in found.items():
        assert difference.difference == pytest.approx(ours[name] - theirs[name]), name
        assert difference.low <= difference.difference <= difference.high


def test_intervals_hold_the_figures():
    rng = np.random.default_rng(0)
    Y, ranking = random_labels(rng, 80, 12, 4), Ranking.from_scores(rng.random((80, 12)), 10)
    report = evaluate(ranking, Y, Y, EvaluateSettings(ks=[1, 5], bootstrap_samples=200), threshold=0.5)
    assert {"micro_F1", "PSnDCG@5"} <= set(report.intervals)
    for name, (low, high) in report.intervals.items():
        assert low <= report.figures[name] <= high, name


def test_a_ranking_cut_shorter_than_k_is_refused():
    Y = sparse.csr_matrix(np.eye(3))
    with pytest.raises(ConfigError, match=r"top_k is 5.*ks \(20\)"):
        evaluate(Ranking.from_scores(np.eye(3), 3), Y, Y, EvaluateSettings(top_k=5))
