"""The mixture against a plain loop, scikit-learn's regression, and the promise that it is monotone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from sklearn.linear_model import LogisticRegression

from cascadexml.rankers.mixture import BROUGHT, Candidates, Mixture, cross_fitted, fit_mixture, logit, root
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


def problem(seed: int) -> tuple[Candidates, np.ndarray]:
    """Synthetic: the first source is right more often the surer it is, more so for rare labels; the second guesses."""
    found = Candidates.of([random_ranking(seed, 300, 20), random_ranking(seed + 1, 300, 20)], [logit, root], L)
    f = np.log1p(USES[found.labels]) / np.log1p(USES.max())
    chance = special.expit((1.5 - f) * found.evidence[:, 0] - 1 + f)
    return found, np.random.default_rng(seed).random(chance.size) < chance


def test_weights_are_those_of_scikit_learn_where_none_is_held_at_0() -> None:
    found, right = problem(0)
    mixture = fit_mixture(found, right, USES)
    f = np.log1p(USES[found.labels]) / np.log1p(USES.max())
    free = [s for s in range(2) if min(mixture.rare[s], mixture.common[s]) > 1e-6]
    assert 0 in free
    X = np.column_stack([*((1 - f) * found.evidence[:, s] for s in free), *(f * found.evidence[:, s] for s in free),
                         1 - f, f])  # fmt: skip
    held = [s for s in range(2) if max(mixture.rare[s], mixture.common[s]) > 1e-6 and s not in free]
    if not held:
        theirs = LogisticRegression(C=1e6, fit_intercept=False, max_iter=2000, tol=1e-8).fit(X, right)
        ours = mixture.probabilities(found, USES)
        np.testing.assert_allclose(ours, theirs.predict_proba(X)[:, 1], atol=5e-3)


def test_what_makes_the_labels_is_found_again() -> None:
    found, right = problem(0)
    mixture = fit_mixture(found, right, USES)
    assert mixture.rare[0] == pytest.approx(1.5, abs=0.4)
    assert mixture.common[0] == pytest.approx(0.5, abs=0.4)
    assert max(mixture.rare[1], mixture.common[1]) < 1
    probabilities = mixture.probabilities(found, USES)
    assert probabilities.mean() == pytest.approx(right.mean(), abs=0.01)


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
