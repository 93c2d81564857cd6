"""Linear classifiers against scikit-learn's own on the same documents, and against dense arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import special
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from cascadexml.config import LinearSettings
from cascadexml.data.corpus import Corpus
from cascadexml.errors import FormatError
from cascadexml.metrics import document_metrics
from cascadexml.rankers import linear
from cascadexml.rankers.base import Documents
from cascadexml.rankers.linear import ITERATIONS, TOLERANCE, LinearRanker
from cascadexml.rankers.popularity import Popularity
from cascadexml.ranking import NO_LABEL

ALL = LinearSettings(near_negatives=0, random_negatives=10_000, least_weight=0.0)


def fitted(corpus: Corpus, settings: LinearSettings) -> LinearRanker:
    train = corpus.splits["train"]
    return LinearRanker.fit(Documents(train.texts), train.Y[:, : corpus.vocabulary.L].tocsr(), settings, seed=0)


@pytest.fixture(scope="module")
def exact(small_corpus: Corpus) -> LinearRanker:
    return fitted(small_corpus, ALL)


def test_with_all_negatives_a_label_is_what_scikit_learn_fits(exact: LinearRanker, small_corpus: Corpus) -> None:
    train = small_corpus.splits["train"]
    X = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit_transform(
        " ".join(text.split()[: ALL.opening]) + " " + text for text in train.texts
    )
    Y = train.Y.toarray()
    for label in np.argsort(-Y.sum(axis=0))[:5]:
        # The order of the documents decides where descent stops: positives stand first there too.
        order = np.argsort(-Y[:, label], kind="stable")
        solver = LinearSVC(C=ALL.cost, tol=TOLERANCE, max_iter=ITERATIONS, dual=True, random_state=0)
        solver.fit(X[order], Y[order, label])
        np.testing.assert_allclose(exact.W[:, label].toarray().ravel(), solver.coef_[0], atol=1e-3)
        assert exact.b[label] == pytest.approx(solver.intercept_[0], abs=1e-3)


def test_a_ranking_is_that_of_the_margins(exact: LinearRanker, small_corpus: Corpus) -> None:
    texts = small_corpus.splits["test"].texts
    ranking = exact.rank(Documents(texts), 20)
    margins = exact.tfidf.transform(texts).toarray() @ exact.W.toarray() + exact.b
    given = ranking.labels != NO_LABEL
    rows = np.broadcast_to(np.arange(len(texts))[:, None], given.shape)
    np.testing.assert_allclose(
        ranking.scores[given], special.expit(margins[rows[given], ranking.labels[given]]), atol=1e-5
    )
    named = (exact.tfidf.transform(texts) @ exact.W).toarray() != 0
    best = -np.sort(-np.where(named, margins, -np.inf), axis=1)[:, :20]
    np.testing.assert_allclose(np.where(given, special.logit(ranking.scores), -np.inf), best, atol=1e-3)


def test_small_weights_are_cut_off(exact: LinearRanker, small_corpus: Corpus) -> None:
    cut = fitted(small_corpus, LinearSettings(near_negatives=0, random_negatives=10_000, least_weight=0.1))
    assert 0 < cut.W.nnz < exact.W.nnz
    kept = exact.W.multiply(abs(exact.W) >= 0.1)
    np.testing.assert_allclose(cut.W.toarray(), kept.toarray())


def test_few_negatives_rank_nearly_as_well_as_all(exact: LinearRanker, small_corpus: Corpus) -> None:
    few = fitted(small_corpus, LinearSettings(near_negatives=30, random_negatives=60))
    train, dev = small_corpus.splits["train"], small_corpus.splits["dev"]
    floor = Popularity.fit(train.Y[:, : small_corpus.vocabulary.L].tocsr())
    all_, some, none = (
        document_metrics(ranker.rank(Documents(dev.texts), 10), dev.Y, [10])["nDCG@10"].mean()
        for ranker in (exact, few, floor)
    )
    assert some > 0.8 * all_ > none


def test_the_sample_of_negatives_is_the_seeds(small_corpus: Corpus) -> None:
    settings, train = LinearSettings(near_negatives=5, random_negatives=40), small_corpus.splits["train"]
    Y = train.Y[:, : small_corpus.vocabulary.L].tocsr()
    one, same, other = (LinearRanker.fit(Documents(train.texts), Y, settings, seed=seed) for seed in (0, 0, 1))
    assert (one.W != same.W).nnz == 0 and (one.b == same.b).all()
    assert (one.W != other.W).nnz > 0


def test_other_processes_fit_the_same_bytes(small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LinearSettings(near_negatives=5, random_negatives=40)
    alone = fitted(small_corpus, settings)
    monkeypatch.setattr(linear, "_PAIRS_A_PROCESS", 0)
    shared = fitted(small_corpus, settings)
    assert (alone.W != shared.W).nnz == 0 and (alone.b == shared.b).all()


def test_a_label_of_no_document_is_never_ranked(small_corpus: Corpus) -> None:
    train = small_corpus.splits["train"]
    Y = train.Y[:, : small_corpus.vocabulary.L].tolil()
    Y[:, 3] = 0
    ranker = LinearRanker.fit(Documents(train.texts), Y.tocsr(), LinearSettings(), seed=0)
    assert not (ranker.rank(Documents(train.texts), 50).labels == 3).any()


def test_parts_that_do_not_fit_are_refused(exact: LinearRanker, tmp_path: Path) -> None:
    exact.save(tmp_path / "ranker")
    manifest = tmp_path / "ranker" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["meta"]["L"] += 1
    manifest.write_text(json.dumps(content))
    with pytest.raises(FormatError):
        LinearRanker.load(tmp_path / "ranker")
