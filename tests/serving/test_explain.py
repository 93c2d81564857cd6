"""Predictions with their reasons: the same as without, and adding up to the probability that is shown."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from cascadexml import Predictor
from cascadexml.data.corpus import Corpus
from cascadexml.errors import PredictionError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.choices import PRECISIONS, Choices
from cascadexml.rankers.blend import BlendExplanations
from cascadexml.rankers.popularity import Popularity
from tests.support.tiny_artifacts import pack_tiny_blend


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    pack_tiny_blend(folder, small_corpus)
    return folder


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return Predictor.load(folder / "of-blend", device="cpu", batch_size=7)


@pytest.fixture(scope="module")
def texts(small_corpus: Corpus) -> list[str]:
    return [*small_corpus.splits["test"].texts[:9], "", "\u200b"]


def test_predictions_are_those_without_explanations(predictor: Predictor, texts: list[str]) -> None:
    for knobs in ({"top_k": 3}, {"top_k": 30, "threshold": predictor.threshold}):
        explained = [[each.prediction for each in found] for found in predictor.explain(texts, **knobs)]
        assert explained == predictor.predict(texts, **knobs)
        assert explained[-2:] == [[], []]
    offered = [each.probability for found in predictor.predict(texts, top_k=30) for each in found]
    cuts = {"head": 0.0, "torso": float(np.median(offered)), "tail": float(np.quantile(offered, 0.8))}
    choices = Choices(3, 10, cuts["torso"], {band: (cut,) * len(PRECISIONS) for band, cut in cuts.items()})
    chosen = replace(predictor.calibration, choices=choices)
    choosy = Predictor(predictor.ranker, predictor.vocabulary, chosen, 7, predictor.uses)
    for asked in ({"threshold": "macro"}, {"min_precision": 0.8}):
        given = [[each.prediction for each in found] for found in choosy.explain(texts, top_k=30, **asked)]
        assert given == choosy.predict(texts, top_k=30, **asked)
        assert 0 < sum(map(len, given)) < len(offered)
    (found,) = predictor.explain(texts[:1])
    alone = predictor.explain(texts[0])
    assert [each.prediction.id for each in alone] == [each.prediction.id for each in found]
    assert predictor.explain("") == []


@pytest.mark.parametrize("changes", [{}, {"bend": 0.2, "mass": -0.3, "places": 7}])
def test_shares_and_calibration_add_up_to_the_probability(
    predictor: Predictor, texts: list[str], changes: dict[str, float]
) -> None:
    calibration = replace(predictor.calibration, **changes)
    whole = Predictor(predictor.ranker, predictor.vocabulary, calibration, predictor.batch_size)
    for text, found in zip(texts, whole.explain(texts, top_k=4), strict=True):
        ranked = whole.rank([text], 4)
        for place, each in enumerate(found):
            log_odds = sum(each.explanation.shares.values())
            assert special.expit(log_odds + each.calibration) == pytest.approx(each.prediction.probability, abs=1e-6)
            assert each.prediction.id == whole.vocabulary.ids[ranked.labels[0, place]]
            assert each.prediction.probability == pytest.approx(float(ranked.scores[0, place]), abs=1e-5)


def test_records_are_training_records_with_the_label(
    predictor: Predictor, small_corpus: Corpus, texts: list[str]
) -> None:
    train, vocabulary = small_corpus.splits["train"], small_corpus.vocabulary
    text_of = dict(zip(train.ids, train.texts, strict=True))
    (found,) = predictor.explain(train.texts[:1], top_k=20, records=1)
    row = {id_: n for n, id_ in enumerate(train.ids)}
    for each in found:
        assert {record.source for record in each.explanation.records} <= {"neighbours", "vectors"}
        for record in each.explanation.records:
            assert train.Y[row[record.id], vocabulary.row(each.prediction.id)]
            assert text_of[record.id]
    # The text is a training record itself: nothing with its labels is nearer.
    own = {vocabulary.ids[label] for label in train.Y[0].indices}
    nearest = [each.explanation.records[0] for each in found if each.prediction.id in own]
    assert nearest and all(text_of[record.id] == train.texts[0] for record in nearest)
    assert [record.cosine for record in nearest] == pytest.approx([1.0] * len(nearest), abs=1e-3)


def test_only_labels_that_are_given_are_explained(
    predictor: Predictor, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    whole = BlendExplanations.of

    def counted(self: BlendExplanations, document: int, labels: list[int], records: int, terms: int) -> object:
        asked.append(len(labels))
        return whole(self, document, labels, records, terms)

    monkeypatch.setattr(BlendExplanations, "of", counted)
    cut = float(np.median([p.probability for found in predictor.predict(texts, top_k=6) for p in found]))
    given = [len(found) for found in predictor.predict(texts, top_k=6, threshold=cut)]
    predictor.explain(texts, top_k=6, threshold=cut)
    assert asked == given


def test_a_stream_is_lazy(predictor: Predictor, texts: list[str]) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for text in itertools.cycle(texts):
            taken += 1
            yield text

    stream = predictor.explain_stream(endless(), chunk_size=4)
    assert taken == 0
    first = list(itertools.islice(stream, 5))
    assert taken == 8
    assert [len(found) for found in first] == [5] * 5


@pytest.mark.parametrize("wrong", [{"records": -1}, {"terms": -1}, {"top_k": 0}, {"threshold": 2.0}])
def test_values_out_of_range_are_refused_before_any_work(predictor: Predictor, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        predictor.explain_stream(["text"], **wrong)  # type: ignore[arg-type]


def test_rankers_that_cannot_explain_say_so(folder: Path, small_corpus: Corpus, predictor: Predictor) -> None:
    alone = Predictor.load(folder / "artifact", device="cpu")
    popular = Predictor(Popularity.fit(small_corpus.splits["train"].Y), small_corpus.vocabulary, Calibration())
    for each, kind in ((alone, "cascade"), (popular, "popularity")):
        with pytest.raises(PredictionError, match=f"of the kind '{kind}', which cannot explain, expected a blend"):
            each.explain("text")
