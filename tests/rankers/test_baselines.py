"""Baselines on real records of the bundled sample."""

from collections import Counter

import numpy as np
import pytest
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from cascadexml.rankers import baselines
from cascadexml.rankers.baselines import NearestNeighbours, popularity
from cascadexml.ranking import NO_LABEL


def plain_votes(train_texts, Y, texts, neighbours):
    """Dense cosine similarities and votes, one text at a time."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    X = vectorizer.fit_transform(train_texts).toarray()
    votes = []
    for query in vectorizer.transform(texts).toarray():
        similarity = np.array([float(query @ row) for row in X])
        nearest = sorted(range(len(X)), key=lambda i: -similarity[i])[:neighbours]
        total = sum(similarity[i] for i in nearest)
        votes.append(sum(similarity[i] / total * Y[i] for i in nearest) if total else np.zeros(Y.shape[1]))
    return np.array(votes)


@pytest.mark.parametrize("neighbours", [1, 5, 1000])
def test_nearest_neighbours_equal_a_dense_slow_version(small_corpus, neighbours):
    train, test = small_corpus.splits["train"], small_corpus.splits["test"]
    ranking = NearestNeighbours.fit(train.texts, train.Y, neighbours).rank(test.texts, 20)
    votes = plain_votes(train.texts, train.Y.toarray(), test.texts, neighbours)
    given = ranking.labels != NO_LABEL
    rows = np.broadcast_to(np.arange(len(test))[:, None], given.shape)
    np.testing.assert_allclose(ranking.scores[given], votes[rows[given], ranking.labels[given]], atol=1e-5)
    best = -np.sort(-votes, axis=1)[:, :20]
    np.testing.assert_allclose(np.where(given, ranking.scores, 0), best, atol=1e-5)
    assert given.sum() == (best > 0).sum()
    assert ranking.scores[given].max() <= 1 + 1e-6


def test_nearest_neighbours_in_chunks_are_the_same(small_corpus, monkeypatch):
    train, test = small_corpus.splits["train"], small_corpus.splits["test"]
    index = NearestNeighbours.fit(train.texts, train.Y, 10)
    whole, seen = index.rank(test.texts, 5), []
    monkeypatch.setattr(baselines, "_CELLS_A_CHUNK", 7 * len(train))
    parts = index.rank(test.texts, 5, lambda what, done, total, figures: seen.append((done, total)))
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_array_equal(parts.scores, whole.scores)
    assert seen[0] == (7, 60)
    assert seen[-1] == (60, 60)


def test_a_text_without_known_words_has_no_labels(small_corpus):
    train = small_corpus.splits["train"]
    index = NearestNeighbours.fit(train.texts, train.Y, 10)
    ranking = index.rank(["qqqq zzzz", train.texts[0]], 3)
    assert (ranking.labels[0] == NO_LABEL).all()
    assert np.isneginf(ranking.scores[0]).all()
    assert set(ranking.labels[1].tolist()) & set(train.Y[[0]].indices.tolist())


def test_popularity_gives_all_the_labels_of_most_uses(small_corpus):
    Y = small_corpus.splits["train"].Y
    ranking = popularity(Y, 4, 10)
    uses = Counter(Y.indices.tolist())
    expected = sorted(uses, key=lambda label: (-uses[label], label))[:10]
    assert ranking.labels.tolist() == [expected] * 4
    np.testing.assert_allclose(ranking.scores[0], [uses[label] / Y.shape[0] for label in expected], rtol=1e-6)


def test_popularity_never_gives_a_label_without_uses():
    Y = sparse.csr_matrix(np.array([[0.0, 1, 0], [0, 1, 0]]))
    assert popularity(Y, 1, 3).labels.tolist() == [[1, NO_LABEL, NO_LABEL]]
