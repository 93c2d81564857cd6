"""TF-IDF against its definition, and against scikit-learn's own transform on texts of every kind."""

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from cascadexml.data.corpus import Corpus
from cascadexml.errors import DataError
from cascadexml.labels import tfidf as module
from cascadexml.labels.tfidf import Tfidf


def test_tfidf_equals_its_definition(small_corpus: Corpus) -> None:
    texts = small_corpus.splits["train"].texts[:60]
    tfidf, X = Tfidf.fit(texts, ngrams=1, min_df=2, max_features=10_000)
    counts = [Counter(re.findall(r"\w\w+", text.lower())) for text in texts]
    frequency = Counter(word for count in counts for word in count)
    words = sorted(word for word, n in frequency.items() if n >= 2)
    assert list(tfidf.terms) == words
    expected = np.zeros((60, len(words)))
    for n, count in enumerate(counts):
        for v, word in enumerate(words):
            if count[word]:
                expected[n, v] = (1 + math.log(count[word])) * (math.log(61 / (1 + frequency[word])) + 1)
    expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(X.toarray(), expected, atol=1e-5)
    assert X.dtype == np.float32


SCIKIT = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
LEARNT = [
    "Die Brücke über den Fluß",
    "bridges over a river, a_b 3D",
    "İstanbul'da köprü über über über",
    "一座 桥梁 over",
]


@pytest.fixture(scope="module")
def both() -> tuple[Tfidf, TfidfVectorizer]:
    tfidf, _ = Tfidf.fit(LEARNT, ngrams=2, min_df=1, max_features=1000)
    return tfidf, SCIKIT.fit(LEARNT)


WORDS = st.sampled_from([*" ".join(LEARNT).split(), "über den", "\n", "x", "...", "\u200b", "OVER", "ﬂuß"])


@given(st.lists(st.one_of(st.lists(WORDS).map(" ".join), st.text()), max_size=5))
def test_it_transforms_as_scikit_learn_does(both: tuple[Tfidf, TfidfVectorizer], texts: list[str]) -> None:
    tfidf, scikit = both
    found = tfidf.transform(texts)
    assert found.shape == (len(texts), tfidf.V) and found.dtype == np.float32
    if texts:
        np.testing.assert_allclose(found.toarray(), scikit.transform(texts).toarray(), atol=1e-6)


def test_real_texts_transform_as_scikit_learn_does(small_corpus: Corpus) -> None:
    train, test = small_corpus.splits["train"].texts, small_corpus.splits["test"].texts
    tfidf, X = Tfidf.fit(train, ngrams=2, min_df=2, max_features=500)
    assert tfidf.V == 500 and any(" " in term for term in tfidf.terms)
    np.testing.assert_allclose(tfidf.transform(train).toarray(), X.toarray(), atol=1e-6)
    scikit = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, max_features=500).fit(train)
    np.testing.assert_allclose(tfidf.transform(test).toarray(), scikit.transform(test).toarray(), atol=1e-5)


@pytest.mark.parametrize("opening", [1, 12])
def test_the_words_of_the_opening_count_twice(small_corpus: Corpus, opening: int) -> None:
    train, test = small_corpus.splits["train"].texts, small_corpus.splits["test"].texts
    tfidf, X = Tfidf.fit(train, ngrams=1, min_df=2, max_features=10_000, opening=opening)
    plain, _ = Tfidf.fit(train, ngrams=1, min_df=2, max_features=10_000)
    assert tfidf.terms == plain.terms
    np.testing.assert_allclose(tfidf.idf, plain.idf, rtol=1e-6)
    for text, row in zip([*train, *test], [*X.toarray(), *tfidf.transform(test).toarray()], strict=True):
        counts = Counter(re.findall(r"\w\w+", text.lower()))
        counts.update(re.findall(r"\w\w+", " ".join(text.split()[:opening]).lower()))
        sublinear = np.array([1 + math.log(counts[term]) if counts[term] else 0.0 for term in tfidf.terms])
        expected = sublinear * tfidf.idf
        np.testing.assert_allclose(row, expected / max(np.linalg.norm(expected), 1e-12), atol=1e-5)


@pytest.mark.parametrize("buckets", [1 << 4, 1 << 10, 1 << 20])
@pytest.mark.parametrize(("min_df", "max_features"), [(1, 10_000), (2, 10_000), (2, 500), (5, 10_000)])
def test_screened_terms_give_the_same(
    small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch, buckets: int, min_df: int, max_features: int
) -> None:
    """However many terms have one hash: with sixteen buckets nothing is left out, with a million most that may be."""
    texts = small_corpus.splits["train"].texts
    plain, X = Tfidf.fit(texts, 2, min_df, max_features, opening=4)
    monkeypatch.setattr(module, "SCREENED", 0)
    monkeypatch.setattr(module, "_BUCKETS", buckets)
    monkeypatch.setattr(module, "_TEXTS_AT_ONCE", 7)
    screened, Z = Tfidf.fit(texts, 2, min_df, max_features, opening=4)
    assert screened.same_as(plain)
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(Z, part), getattr(X, part))


@pytest.mark.parametrize("texts", [["one"], ["one two", "three four"], ["!", "?"]])
def test_texts_without_a_common_word_are_refused(texts: list[str]) -> None:
    with pytest.raises(DataError, match=rf"2 of the {len(texts)} texts"):
        Tfidf.fit(texts, ngrams=1, min_df=2, max_features=10)


def test_what_is_saved_transforms_equally(both: tuple[Tfidf, TfidfVectorizer], tmp_path: Path) -> None:
    tfidf, _ = both
    tfidf.save(tmp_path)
    loaded = Tfidf.load(tmp_path, tfidf.ngrams)
    assert (loaded.transform(LEARNT) != tfidf.transform(LEARNT)).nnz == 0


@pytest.mark.parametrize(
    ("terms", "idf", "ngrams", "opening"),
    [
        (["a", "a"], [1, 1], 1, 0),
        (["a", 3], [1, 1], 1, 0),
        (["a"], [1, 1], 1, 0),
        (["a"], [math.nan], 1, 0),
        (["a"], [1], 0, 0),
        (["a"], [1], 1, -1),
    ],
)
def test_what_are_no_terms_is_refused(terms: list[str], idf: list[float], ngrams: int, opening: int) -> None:
    with pytest.raises(ValueError):
        Tfidf(terms, np.array(idf, dtype=np.float32), ngrams, opening)


def test_only_those_that_read_every_text_alike_are_the_same() -> None:
    terms, idf = ["heat", "pump"], np.ones(2, dtype=np.float32)
    one = Tfidf(terms, idf, 2, 1)
    assert one.same_as(Tfidf(list(terms), idf.copy(), 2, 1))
    others = [Tfidf(terms, idf, 2, 0), Tfidf(terms, idf * 2, 2, 1), Tfidf(["heat", "pipe"], idf, 2, 1)]
    assert not any(one.same_as(other) for other in [*others, Tfidf(terms, idf, 1, 1)])
