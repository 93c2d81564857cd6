"""Explanations of a blend of real records, each part computed again by plain loops, from the corpus where it can be."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special
from sklearn.feature_extraction.text import TfidfVectorizer

from cascadexml.data.corpus import Corpus
from cascadexml.rankers.base import Documents
from cascadexml.rankers.blend import Blend
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.ranker import CascadeRanker
from cascadexml.rankers.explaining import Explainer, Explanation
from cascadexml.rankers.mixture import Mixture
from cascadexml.ranking import Ranking
from tests.support.tiny_artifacts import MAX_LENGTH, tiny_blend, tiny_model
from tests.support.tiny_encoders import make_tiny_encoder

K, ALL = 8, 100_000
SOURCES = ["cascade", "linear", "neighbours", "vectors", "names"]
MIXTURE = Mixture((0.7, 1.3, 2.0, 0.0, 1.1), (0.2, 0.9, 0.0, 0.0, 0.6), -1.5, 0.5)
"""Synthetic weights: all that fitting may give, a source that is left out among them."""
EVIDENCE: dict[str, Callable[[float], float]] = {
    "cascade": lambda score: special.logit(np.clip(score, 1e-4, 1 - 1e-6)),
    "linear": lambda score: special.logit(np.clip(score, 1e-4, 1 - 1e-6)),
    "neighbours": np.sqrt,
    "vectors": np.sqrt,
    "names": lambda score: score,
}


def with_opening_twice(texts: list[str]) -> list[str]:
    """The first twelve words count twice for all that reads words, by default."""
    return [" ".join(text.split()[:12]) + " " + text for text in texts]


@pytest.fixture(scope="module")
def blend(small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Blend:
    encoder = make_tiny_encoder("bert", tmp_path_factory.mktemp("encoder") / "encoder", layers=2)
    cascade = CascadeRanker(tiny_model(small_corpus, encoder), load_tokenizer(str(encoder)), MAX_LENGTH)
    return replace(tiny_blend(small_corpus, cascade), mixture=MIXTURE)


@pytest.fixture(scope="module")
def texts(small_corpus: Corpus) -> list[str]:
    return [*small_corpus.splits["test"].texts[:12], "", *small_corpus.splits["dev"].texts[:12], "Hydrogen xyzzy"]


@pytest.fixture(scope="module")
def ranking(blend: Blend, texts: list[str]) -> Ranking:
    return blend.rank(Documents(texts), K)


def explain(
    blend: Blend, texts: list[str], records: int = 3, terms: int = 5
) -> tuple[Ranking, list[list[Explanation]]]:
    assert isinstance(blend, Explainer)
    ranking, explanations = blend.rank_to_explain(Documents(texts), K)
    rows = [[int(label) for label in labels if label >= 0] for labels in ranking.labels]
    return ranking, [explanations.of(n, each, records, terms) for n, each in enumerate(rows)]


@pytest.fixture(scope="module")
def explained(blend: Blend, texts: list[str]) -> list[list[Explanation]]:
    return explain(blend, texts)[1]


def test_shares_are_weight_times_evidence_and_add_up_to_the_scores_log_odds(
    blend: Blend, texts: list[str], ranking: Ranking, explained: list[list[Explanation]]
) -> None:
    _, _, told = blend.rank_with_sources(Documents(texts), K)
    not_named = 0
    for n, reasons in enumerate(explained):
        for label, score, reason in zip(ranking.labels[n], ranking.scores[n], reasons, strict=False):
            f = np.log1p(blend.uses[label]) / np.log1p(blend.uses.max())
            expected = {}
            for s, name in enumerate(SOURCES):
                scores = dict(zip(told[name].labels[n].tolist(), told[name].scores[n].tolist(), strict=True))
                not_named += label not in scores
                said = scores.get(int(label), 0.0 if -1 in scores else min(scores.values()))
                evidence = EVIDENCE[name](said)
                expected[name] = ((1 - f) * MIXTURE.rare[s] + f * MIXTURE.common[s]) * evidence
            expected["frequency"] = (1 - f) * MIXTURE.rare_bias + f * MIXTURE.common_bias
            assert list(reason.shares) == list(expected)
            assert reason.shares == pytest.approx(expected, abs=1e-6)
            assert reason.shares["vectors"] == 0
            assert special.expit(reason.log_odds) == pytest.approx(float(score), rel=1e-5)
    assert not_named > 50


def test_all_terms_and_the_bias_add_up_to_the_linear_score(blend: Blend, texts: list[str], ranking: Ranking) -> None:
    linear = blend.sources.linear
    assert linear is not None
    scores = linear.rank(Documents(texts), linear.L)
    seen = 0
    for n, reasons in enumerate(explain(blend, texts, terms=ALL)[1]):
        named = dict(zip(scores.labels[n].tolist(), scores.scores[n].tolist(), strict=True))
        for label, reason in zip(ranking.labels[n].tolist(), reasons, strict=False):
            assert (reason.words is not None) == (label in named)
            if reason.words is None:
                continue
            seen += 1
            terms = [*reason.words.speak_for, *reason.words.speak_against]
            assert reason.words.others == 0
            total = sum(term.adds for term in terms) + reason.words.bias
            assert special.expit(total) == pytest.approx(named[label], rel=1e-5)
            assert reason.words.log_odds == pytest.approx(total)
    assert seen > 50


def test_terms_are_the_strongest_on_each_side_by_weight_times_tfidf(
    blend: Blend, small_corpus: Corpus, texts: list[str], ranking: Ranking
) -> None:
    linear = blend.sources.linear
    assert linear is not None
    # The terms as scikit-learn numbers and weighs them, from the training texts.
    theirs = TfidfVectorizer(ngram_range=(1, linear.tfidf.ngrams), sublinear_tf=True, min_df=2)
    theirs.fit(with_opening_twice(small_corpus.splits["train"].texts))
    column = {term: at for at, term in enumerate(linear.tfidf.terms)}
    X = theirs.transform(with_opening_twice(texts))
    names, W = theirs.get_feature_names_out(), linear.W.toarray()
    for n, reasons in enumerate(explain(blend, texts, terms=2)[1]):
        for label, reason in zip(ranking.labels[n].tolist(), reasons, strict=False):
            adds = {names[at]: X[n, at] * W[column[names[at]], label] for at in X[n].indices}
            for side, sign in (("speak_for", 1), ("speak_against", -1)):
                best = sorted((sign * value for value in adds.values() if sign * value > 0), reverse=True)[:2]
                given = getattr(reason.words, side) if reason.words else ()
                assert [sign * term.adds for term in given] == pytest.approx(best, rel=1e-4)
                assert all(term.adds == pytest.approx(adds[term.term], rel=1e-4) for term in given)
            if reason.words:
                assert reason.words.log_odds == pytest.approx(sum(adds.values()) + linear.b[label], rel=1e-3, abs=1e-4)


def test_records_carry_the_label_and_are_the_nearest_that_do(
    blend: Blend, small_corpus: Corpus, texts: list[str], ranking: Ranking, explained: list[list[Explanation]]
) -> None:
    train = small_corpus.splits["train"]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    X = words.fit_transform(with_opening_twice(train.texts))
    by_words = (X @ words.transform(with_opening_twice(texts)).T).toarray()
    _, vectors = blend.sources.cascade.rank_with_vectors(Documents([*train.texts, *texts]), 1)
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    by_vectors = units[: len(train)] @ units[len(train) :].T
    at = {id_: row for row, id_ in enumerate(train.ids)}
    Y = train.Y.toarray()
    given = 0
    for n, reasons in enumerate(explained):
        for label, reason in zip(ranking.labels[n].tolist(), reasons, strict=False):
            for source, cosines, close in (("neighbours", by_words, 1e-5), ("vectors", by_vectors, 2e-3)):
                near = [record for record in reason.records if record.source == source]
                assert all(Y[at[record.id], label] for record in near)
                carried = cosines[Y[:, label] > 0, n]
                best = np.sort(carried[carried > 0])[::-1][:3]
                assert [record.cosine for record in near] == pytest.approx(best.tolist(), abs=close)
                assert all(r.cosine == pytest.approx(cosines[at[r.id], n], abs=close) for r in near)
                given += len(near)
    assert given > 100


def test_a_text_without_content_has_nothing_to_explain(texts: list[str], explained: list[list[Explanation]]) -> None:
    assert explained[texts.index("")] == []
    assert all(reasons for text, reasons in zip(texts, explained, strict=True) if text)


def test_explaining_ranks_as_ranking_does(blend: Blend, texts: list[str], ranking: Ranking) -> None:
    again, _ = explain(blend, texts)
    np.testing.assert_array_equal(again.labels, ranking.labels)
    np.testing.assert_array_equal(again.scores, ranking.scores)


def test_labels_are_explained_in_the_order_asked_for_and_others_refused(blend: Blend, texts: list[str]) -> None:
    ranking, explanations = blend.rank_to_explain(Documents(texts), K)
    rows = ranking.labels[0].tolist()
    assert explanations.of(0, rows[::-1], 3, 5) == explanations.of(0, rows, 3, 5)[::-1]
    named = set(np.concatenate([r.labels[0] for r in blend.rank_with_sources(Documents(texts[:1]), K)[2].values()]))
    with pytest.raises(ValueError, match="the ranking of document 0 does not name all of the labels"):
        explanations.of(0, [rows[0], min(set(range(blend.L)) - named)], 3, 5)


@pytest.mark.parametrize("left", [(), ("linear",), ("neighbours",), ("vectors",), ("neighbours", "vectors")])
def test_a_source_that_is_not_there_is_not_spoken_of(
    blend: Blend, texts: list[str], left: tuple[str, ...], tmp_path: Path
) -> None:
    weights = tuple(1.0 for name in SOURCES if name not in left)
    sources = replace(blend.sources, **dict.fromkeys(left))
    replace(blend, sources=sources, mixture=Mixture(weights, weights)).save(tmp_path / "blend")
    fewer = Blend.load(tmp_path / "blend", "cpu")
    ranking, explained = explain(fewer, texts)
    for n, reasons in enumerate(explained):
        for score, reason in zip(ranking.scores[n], reasons, strict=False):
            assert list(reason.shares) == [*(name for name in SOURCES if name not in left), "frequency"]
            assert {record.source for record in reason.records} <= {"neighbours", "vectors"} - set(left)
            assert "linear" not in left or reason.words is None
            assert special.expit(reason.log_odds) == pytest.approx(float(score), rel=1e-5)
    assert any(reason.records for reasons in explained for reason in reasons) == (len(left) < 2)


def test_as_many_records_and_terms_as_asked_for(blend: Blend, texts: list[str]) -> None:
    none = explain(blend, texts, records=0, terms=0)[1]
    for few, some in zip(none, explain(blend, texts, records=1, terms=1)[1], strict=True):
        for left_out, reason in zip(few, some, strict=True):
            assert not left_out.records
            assert len([r for r in reason.records if r.source == "vectors"]) <= 1
            if reason.words and left_out.words:
                assert left_out.words.speak_for == left_out.words.speak_against == ()
                assert max(len(reason.words.speak_for), len(reason.words.speak_against)) <= 1
                assert left_out.words.log_odds == pytest.approx(reason.words.log_odds)
