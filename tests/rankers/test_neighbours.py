"""Nearest neighbours on real records of the bundled sample, against dense arithmetic."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from cascadexml.errors import FormatError
from cascadexml.rankers import neighbours as module
from cascadexml.rankers.base import Documents
from cascadexml.rankers.neighbours import FORMAT, NearestNeighbours
from cascadexml.ranking import NO_LABEL, Ranking


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
    ranking = NearestNeighbours.fit(Documents(train.texts), train.Y, neighbours).rank(Documents(test.texts), 20)
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
    index = NearestNeighbours.fit(Documents(train.texts), train.Y, 10)
    whole, seen = index.rank(Documents(test.texts), 5), []
    monkeypatch.setattr(module, "_CELLS_A_CHUNK", 7 * len(train))
    parts = index.rank(Documents(test.texts), 5, progress=lambda what, done, total, figures: seen.append((done, total)))
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_array_equal(parts.scores, whole.scores)
    assert seen[0] == (7, 60)
    assert seen[-1] == (60, 60)


def test_a_text_without_known_words_has_no_labels(small_corpus):
    train = small_corpus.splits["train"]
    index = NearestNeighbours.fit(Documents(train.texts), train.Y, 10)
    ranking = index.rank(Documents(["qqqq zzzz", train.texts[0]]), 3)
    assert (ranking.labels[0] == NO_LABEL).all()
    assert np.isneginf(ranking.scores[0]).all()
    assert set(ranking.labels[1].tolist()) & set(train.Y[[0]].indices.tolist())


@given(st.integers(0, 10_000))
def test_votes_are_the_product_of_shares_and_labels(seed):
    random = np.random.default_rng(seed)
    B, N, L, K = random.integers(1, 7, 4)
    Y = sparse.random(N, L, 0.5, format="csr", dtype=np.float32, random_state=random)
    labels = np.array([random.permutation(max(N, K))[:K] for _ in range(B)])
    given = (labels < N) & (random.random((B, K)) < 0.8)
    scores = np.where(given, random.choice([-0.25, 0.0, 0.25, 0.5], (B, K)), -np.inf).astype(np.float32)
    nearest = Ranking(np.where(given, labels, NO_LABEL).astype(np.int32), scores)
    expected = np.zeros((B, L))
    for row, own, weights in zip(expected, nearest.labels, scores, strict=True):
        total = sum(weight for weight in weights if weight > 0)
        for document, weight in zip(own, weights, strict=True):
            row += weight / total * Y[[document]].toarray()[0] if weight > 0 else 0
    np.testing.assert_allclose(module.votes(nearest, Y).toarray(), expected, atol=1e-6)


@pytest.mark.parametrize("ngrams", [1, 3])
def test_the_terms_read_back_equal(small_corpus, tmp_path, ngrams):
    train, test = small_corpus.splits["train"], small_corpus.splits["test"]
    index = NearestNeighbours.fit(Documents(train.texts), train.Y, 10, ngrams=ngrams, opening=4)
    index.save(tmp_path / "index")
    loaded = NearestNeighbours.load(tmp_path / "index")
    texts = [*test.texts, "", "qqqq", "Ünïcödé lone \ud800"]
    before, after = index.tfidf.transform(texts), loaded.tfidf.transform(texts)
    for part in ("data", "indices", "indptr"):
        assert getattr(before, part).dtype == getattr(after, part).dtype
        np.testing.assert_array_equal(getattr(after, part), getattr(before, part))
    assert before.shape == after.shape
    assert list(loaded.tfidf.terms) == list(index.tfidf.terms)
    assert (loaded.neighbours, loaded.tfidf.opening) == (10, 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"terms": lambda terms: terms[:-1]}, "indices holds 0 to|idf is float32"),
        ({"terms": lambda terms: [terms[1], *terms[1:]]}, "stands twice"),
        ({"terms": lambda terms: [3, *terms[1:]]}, "no string"),
        ({"terms": lambda terms: dict.fromkeys(terms)}, "no list"),
        ({"idf": lambda idf: idf[:-1]}, "expected 1234 finite float32"),
        ({"idf": lambda idf: idf.astype(np.float64)}, "idf is float64"),
        ({"idf": lambda idf: np.where(np.arange(idf.size) == 3, np.nan, idf).astype(np.float32)}, "finite float32"),
        ({"X_indices": lambda a: np.where(np.arange(a.size) == 3, 10**7, a)}, "indices holds 0 to 10000000"),
        ({"Y_indptr": lambda a: np.concatenate([[0], a[2:]])}, "indptr has 300 entries, expected 301"),
        ({"Y_data": lambda a: np.where(np.arange(a.size) == 3, np.inf, a)}, "not finite"),
        ({"neighbours": lambda n: 0}, "neighbours is 0"),
        ({"ngrams": lambda n: None}, "ngrams is None"),
        ({"opening": lambda n: -1}, "opening is -1"),
    ],
)
def test_parts_that_do_not_fit_are_refused_despite_a_right_manifest(small_corpus, tmp_path, change, said):
    train = small_corpus.splits["train"]
    NearestNeighbours.fit(Documents(train.texts), train.Y, 10).save(tmp_path / "sound")
    (name, changed), meta = next(iter(change.items())), dict(FORMAT.read(tmp_path / "sound").meta)
    terms = json.loads((tmp_path / "sound" / "terms.json").read_text())
    arrays = load_file(tmp_path / "sound" / "index.safetensors")
    idf = np.load(tmp_path / "sound" / "idf.npy")
    said = said.replace("1234", str(len(terms)))
    if name in meta:
        meta[name] = changed(meta[name])
    elif name == "terms":
        terms = changed(terms)
    elif name == "idf":
        idf = changed(idf)
    else:
        arrays[name] = changed(arrays[name])
    with FORMAT.write(tmp_path / "odd", meta) as folder:
        (folder / "terms.json").write_text(json.dumps(terms))
        np.save(folder / "idf.npy", idf)
        save_file(arrays, folder / "index.safetensors")
    with pytest.raises(FormatError, match=said):
        NearestNeighbours.load(tmp_path / "odd")
