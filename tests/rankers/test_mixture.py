"""The mixture against a plain loop, scikit-learn's regression, and the promise that it is monotone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn.linear_model import LogisticRegression

from cascadexml.rankers.mixture import BROUGHT, DECISIVE, Candidates, Mixture, cross_fitted, fit_mixture, logit, root
from cascadexml.ranking import NO_LABEL, Ranking

L = 60
USES = np.arange(L, dtype=np.int64)


def random_ranking(seed: int, N: int, K: int) -> Ranking:
    """Synthetic: K labels at random, some rows shorter."""
    random = np.random.default_rng(seed)
    labels = np.array([random.permutation(L)[:K] for _ in range(N)], dtype=np.int32)
    scores = -np.sort(-random.uniform(0.01, 0.99, (N, K))).astype(np.float32)
    for row, length in enumerate(random.integers(0, K + 1, N)):
        if row % 3 == 0:
            labels[row, length:], scores[row, length:] = NO_LABEL, -np.inf
    return Ranking(labels, scores)


def test_candidates_and_evidence_are_those_of_a_plain_loop() -> None:
    rankings = [random_ranking(0, 8, 10), random_ranking(1, 8, 50)]
    found = Candidates.of(rankings, [logit, root], L)
    expected = []
    for n in range(8):
        told = [
            {int(label): float(score) for label, score in zip(r.labels[n], r.scores[n], strict=True) if label >= 0}
            for r in rankings
        ]
        brought = set(told[0]) | {int(label) for label in rankings[1].labels[n, :BROUGHT] if label >= 0}
        last = [min(t.values()) if len(t) == r.shape[1] else 0.0 for t, r in zip(told, rankings, strict=True)]
        for label in sorted(brought):
            one, other = (t.get(label, least) for t, least in zip(told, last, strict=True))
            expected.append((n, label, special.logit(np.clip(one, 1e-4, 1 - 1e-6)), np.sqrt(other)))
    assert list(zip(found.documents.tolist(), found.labels.tolist(), strict=True)) == [row[:2] for row in expected]
    np.testing.assert_allclose(found.evidence, [row[2:] for row in expected], atol=1e-6)


def problem(seed: int, N: int = 300) -> tuple[Candidates, np.ndarray]:
    """Synthetic: the first source is right more often the surer it is, more so for rare labels; the second guesses."""
    found = Candidates.of([random_ranking(seed, N, 20), random_ranking(seed + 1, N, 20)], [logit, root], L)
    f = np.log1p(USES[found.labels]) / np.log1p(USES.max())
    chance = special.expit((1.5 - f) * found.evidence[:, 0] - 1 + f)
    return found, np.random.default_rng(seed).random(chance.size) < chance


def columns(found: Candidates) -> np.ndarray:
    """(M, 2 S + 2): evidence and 1 by hand, each for the rare end and the common one."""
    f = np.log1p(USES[found.labels]) / np.log1p(USES.max())
    ends = [(1 - f) * e for e in found.evidence.T], [f * e for e in found.evidence.T]
    return np.column_stack([*ends[0], *ends[1], 1 - f, f])


def likeliest(X: np.ndarray, right: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=1e6, fit_intercept=False, max_iter=2000, tol=1e-8).fit(X, right)


def test_the_weights_are_scikit_learns_for_the_first_places_that_its_weights_for_all_give() -> None:
    # One source that tells much, so that no weight is held at 0.
    found, right = problem(0)
    found = Candidates(found.documents, found.labels, found.evidence[:, :1], found.N)
    X = columns(found)
    sure = likeliest(X, right).predict_proba(X)[:, 1]
    first = np.zeros(right.size, dtype=bool)
    for n in range(found.N):
        mine = np.flatnonzero(found.documents == n)
        first[mine[np.argsort(-sure[mine])[:DECISIVE]]] = True
    theirs = likeliest(X[first], right[first]).predict_proba(X)[:, 1]
    mixture = fit_mixture(found, right, USES)
    assert min(*mixture.rare, *mixture.common) > 0
    np.testing.assert_allclose(mixture.probabilities(found, USES), theirs, atol=5e-3)
    assert np.abs(theirs - sure).max() > 0.02, "once and twice differ here"


def test_the_first_places_are_as_probable_as_they_are_right() -> None:
    found, right = problem(0)
    probabilities = fit_mixture(found, right, USES).probabilities(found, USES)
    first = found.first(probabilities, DECISIVE)
    assert first.sum() == sum(min(DECISIVE, int((found.documents == n).sum())) for n in range(found.N))
    assert probabilities[first].mean() == pytest.approx(right[first].mean(), abs=0.02)


@pytest.mark.parametrize("all_right", [True, False])
def test_where_all_or_none_of_the_first_places_are_right_all_candidates_count(all_right: bool) -> None:
    found, _ = problem(0)
    right = found.evidence[:, 0] > np.median(found.evidence[:, 0]) if all_right else np.zeros(len(found.labels), bool)
    probabilities = fit_mixture(found, right, USES).probabilities(found, USES)
    assert np.isfinite(probabilities).all()
    assert probabilities[right].min(initial=1) > probabilities[~right].max() - 0.5


def test_what_makes_the_labels_is_found_again() -> None:
    found, right = problem(0, N=3000)
    mixture = fit_mixture(found, right, USES)
    assert mixture.rare[0] == pytest.approx(1.5, abs=0.4)
    assert mixture.common[0] == pytest.approx(0.5, abs=0.4)
    assert max(mixture.rare[1], mixture.common[1]) < 1


WEIGHT = st.floats(0, 5)
SCORE = st.floats(0.01, 0.99)


@given(st.tuples(WEIGHT, WEIGHT), st.tuples(WEIGHT, WEIGHT), SCORE, SCORE, SCORE, st.integers(0, L - 1))
def test_a_source_that_becomes_surer_never_lowers_a_label(
    rare: tuple[float, float], common: tuple[float, float], low: float, high: float, other: float, label: int
) -> None:
    mixture = Mixture(rare, common, 0.3, -0.2)
    low, high = sorted((low, high))
    probabilities = []
    for score in (low, high):
        one = Ranking(np.array([[label]], dtype=np.int32), np.array([[score]], dtype=np.float32))
        two = Ranking(np.array([[label]], dtype=np.int32), np.array([[other]], dtype=np.float32))
        probabilities.append(mixture.probabilities(Candidates.of([one, two], [logit, root], L), USES)[0])
    assert probabilities[1] >= probabilities[0]


def test_no_fitted_weight_is_below_0_though_a_source_is_wrong() -> None:
    found, right = problem(3)
    mixture = fit_mixture(found, ~right, USES)
    assert min(*mixture.rare, *mixture.common) >= 0


def test_a_document_is_judged_by_weights_that_have_not_seen_it() -> None:
    found, right = problem(0)
    probabilities = cross_fitted(found, right, USES, folds=3, seed=0)
    fold = np.random.default_rng(0).permutation(found.N) % 3
    rows = np.flatnonzero(fold == 1)
    changed = right.copy()
    mine = np.isin(found.documents, rows)
    changed[mine] = ~changed[mine]
    again = cross_fitted(found, changed, USES, folds=3, seed=0)
    np.testing.assert_allclose(again[mine], probabilities[mine])
    assert np.abs(again[~mine] - probabilities[~mine]).max() > 0.01


def test_shares_add_up_to_the_log_odds() -> None:
    found, right = problem(0)
    mixture = fit_mixture(found, right, USES)
    shares = mixture.shares(found, USES)
    assert shares.shape == (len(found.documents), 3)
    np.testing.assert_allclose(special.expit(shares.sum(axis=1)), mixture.probabilities(found, USES))
