import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import cascadexml
from cascadexml import Prediction, Predictor
from cascadexml.artifact.artifact import open_artifact
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.device import pick_device
from cascadexml.errors import DataError, FormatError, PredictionError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.choices import Choices
from cascadexml.evaluation.thresholds import NEVER
from cascadexml.rankers.base import Documents
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.rankers.neighbours import NearestNeighbours
from cascadexml.rankers.popularity import Popularity
from cascadexml.ranking import NO_LABEL
from tests.support.tiny_artifacts import MAX_LENGTH, pack_again, pack_tiny
from tests.support.tiny_encoders import ARCHITECTURES


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    return pack_tiny(tmp_path_factory.mktemp("predictor"), small_corpus)


@pytest.fixture(scope="module")
def predictor(artifact: Path) -> Predictor:
    return Predictor.load(artifact, device="cpu", batch_size=7)


@pytest.fixture(scope="module")
def texts(small_corpus: Corpus) -> list[str]:
    return small_corpus.splits["test"].texts


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, artifact: Path, texts: list[str]) -> TokenStore:
    path = tmp_path_factory.mktemp("tokens") / "test"
    tokenizer = load_tokenizer(str(artifact / "rankers" / "cascade" / "tokenizer"))
    return TokenStore.build(path, texts, tokenizer, MAX_LENGTH, processes=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    # Models this small only lose by waiting for other threads.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def by_hand(artifact: Path, text: str, top_k: int) -> list[Prediction]:
    """Each part called by itself, the calibration's formula in plain Python."""
    parts = open_artifact(artifact)
    model, vocabulary, calibration = CascadeXML.load(parts.network.path), parts.vocabulary(), parts.calibration()
    tokenizer = AutoTokenizer.from_pretrained(artifact / "rankers" / "cascade" / "tokenizer")
    ids = torch.tensor([tokenizer(text, truncation=True, max_length=MAX_LENGTH)["input_ids"]])
    rows, scores = model.rank(ids, torch.ones_like(ids), top_k)
    found = []
    for row, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True):
        z = calibration.slope * math.log(score / (1 - score)) + calibration.intercept
        found.append(Prediction(vocabulary.ids[row], vocabulary.names[row], 1 / (1 + math.exp(-z))))
    return found


def close(one: list[Prediction], other: list[Prediction]) -> bool:
    """The same to 1e-5; labels may change places only where their probabilities are that close."""
    shared = {p.id: p.probability for p in other}
    return np.allclose([p.probability for p in one], [p.probability for p in other], rtol=0, atol=1e-5) and all(
        abs(shared[p.id] - p.probability) <= 1e-5 for p in one if p.id in shared
    )


def test_predictions_equal_the_parts_called_by_hand(artifact: Path, predictor: Predictor, texts: list[str]) -> None:
    for text, found in zip(texts[:5], predictor.predict(texts[:5], top_k=8), strict=True):
        assert close(found, by_hand(artifact, text, 8))
        assert [p.probability for p in found] == sorted((p.probability for p in found), reverse=True)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "bert"])
def test_other_architectures_go_through_an_artifact(
    tmp_path: Path, small_corpus: Corpus, texts: list[str], architecture: str
) -> None:
    path = pack_tiny(tmp_path, small_corpus, architecture)
    for text, found in zip(texts[:3], Predictor.load(path, device="cpu").predict(texts[:3]), strict=True):
        assert close(found, by_hand(path, text, 5))


def test_one_text_gives_one_list_and_several_give_several(predictor: Predictor, texts: list[str]) -> None:
    alone = predictor.predict(texts[0])
    assert len(alone) == 5
    assert all(isinstance(p, Prediction) for p in alone)
    (listed,) = predictor.predict([texts[0]])
    assert close(alone, listed)
    assert predictor.predict([]) == []


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_scores_are_equal_alone_and_in_any_batch(predictor: Predictor, texts: list[str], data: st.DataObject) -> None:
    mixed = data.draw(st.lists(st.sampled_from(texts) | st.text(max_size=40), min_size=1, max_size=20))
    together = predictor.predict(mixed, top_k=20)
    assert len(together) == len(mixed)
    assert all(close(predictor.predict(text, top_k=20), found) for text, found in zip(mixed, together, strict=True))


def test_a_stream_is_lazy_and_keeps_order(predictor: Predictor, texts: list[str]) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for text in itertools.cycle(texts):
            taken += 1
            yield text

    stream = predictor.stream(endless(), chunk_size=10)
    assert taken == 0
    first = list(itertools.islice(stream, 25))
    assert taken == 30
    assert all(close(one, other) for one, other in zip(first, predictor.predict(texts[:25]), strict=True))


def test_the_threshold_leaves_out_what_is_less_probable(predictor: Predictor, texts: list[str]) -> None:
    every = predictor.predict(texts, top_k=30)
    cut = float(np.median([p.probability for found in every for p in found]))
    kept = predictor.predict(texts, top_k=30, threshold=cut)
    assert kept == [[p for p in found if p.probability >= cut] for found in every]
    assert predictor.threshold == 0.25


@pytest.fixture(scope="module")
def choosy(artifact: Path, small_corpus: Corpus, predictor: Predictor, texts: list[str]) -> Predictor:
    """The same model with thresholds by label, chosen so that each band keeps some of what it is offered."""
    offered = [p.probability for found in predictor.predict(texts, top_k=30) for p in found]
    low, middle, high = (float(q) for q in np.quantile(offered, [0.3, 0.5, 0.8]))
    precision = {"head": (low,) * 8, "torso": (middle,) * 4 + (high,) * 4, "tail": (high,) + (NEVER,) * 7}
    chosen = replace(predictor.calibration, choices=Choices(3, 10, middle, precision))
    path = artifact.parent / "choosy"
    pack_again(path, artifact.parent, small_corpus, calibration=chosen)
    return Predictor.load(path, device="cpu", batch_size=7)


def by_band(corpus: Corpus, thresholds: dict[str, float]) -> dict[str, float]:
    """Label id → threshold, by its uses in train counted one by one; head from 10 on, torso from 3 on."""
    uses = Counter(corpus.splits["train"].Y.indices.tolist())
    bands = ("head" if uses[row] >= 10 else "torso" if uses[row] >= 3 else "tail" for row in range(corpus.vocabulary.L))
    return {corpus.vocabulary.ids[row]: thresholds[band] for row, band in enumerate(bands)}


def test_thresholds_by_label_leave_out_what_does_not_reach_its_band(
    choosy: Predictor, small_corpus: Corpus, texts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    every, choices = choosy.predict(texts, top_k=30), choosy.calibration.choices
    assert choices is not None

    def expected(thresholds: dict[str, float], least: float = 0.0) -> list[list[Prediction]]:
        own = by_band(small_corpus, thresholds)
        return [[p for p in found if p.probability >= max(own[p.id], least)] for found in every]

    wanted = {band: values[6] for band, values in choices.precision.items()}
    caplog.clear()
    found = choosy.predict(texts, top_k=30, min_precision=0.9)
    assert found == expected(wanted)
    assert 0 < sum(map(len, found)) < sum(map(len, every))
    assert caplog.messages == ["A precision of 0.9 was not reached on dev by tail labels: none of them are given."]
    assert choosy.predict(texts, top_k=30, threshold="macro") == expected(dict.fromkeys(wanted, choices.macro))
    assert choosy.predict(texts, top_k=30, threshold="tuned") == expected(dict.fromkeys(wanted, choosy.threshold))
    cut = float(np.median([p.probability for kept in found for p in kept]))
    both = choosy.predict(texts, top_k=30, threshold=cut, min_precision=0.9)
    assert both == expected(wanted, cut) != found
    assert list(choosy.stream(texts, 30, "macro", 5, 0.6)) == expected(
        {band: max(choices.macro, values[1]) for band, values in choices.precision.items()}
    )


def test_without_thresholds_by_label_asking_for_them_is_an_error(
    predictor: Predictor, choosy: Predictor, texts: list[str]
) -> None:
    for asked in ({"threshold": "macro"}, {"min_precision": 0.8}):
        with pytest.raises(PredictionError, match="trained without a dev split; give a probability instead"):
            predictor.stream(texts, **asked)  # type: ignore[arg-type]
    bare = Predictor(choosy.ranker, choosy.vocabulary, choosy.calibration)
    with pytest.raises(PredictionError, match="how often train uses each label: load it from an artifact"):
        bare.stream(texts, min_precision=0.8)
    with pytest.raises(PredictionError, match=r"0\.97 was not reached on dev by labels of any band"):
        choosy.predict(texts, min_precision=0.97)


def test_probabilities_are_the_same_whatever_is_asked_for(predictor: Predictor, texts: list[str]) -> None:
    ranker, vocabulary = predictor.ranker, predictor.vocabulary
    crowded = Predictor(ranker, vocabulary, replace(predictor.calibration, mass=-1.5, bend=0.5))
    every = crowded.predict(texts[:5], top_k=30)
    for top_k in (1, 3, 10):
        found = crowded.predict(texts[:5], top_k=top_k)
        assert all(close(one, other[:top_k]) for one, other in zip(found, every, strict=True))
    assert not close(every[0], predictor.predict(texts[0], top_k=30))


def test_top_k_beyond_the_labels_gives_each_at_most_once(predictor: Predictor, texts: list[str]) -> None:
    found = predictor.predict(texts[0], top_k=2**70)
    assert len({p.id for p in found}) == len(found) < predictor.vocabulary.L
    assert predictor.rank(texts[:1], 10_000).labels[0, len(found)] == NO_LABEL


@pytest.mark.parametrize("text", ["", " ", "\t\n \u2003", "\u200b"])
def test_a_text_without_content_has_no_predictions(predictor: Predictor, text: str) -> None:
    assert predictor.predict(text) == []
    before, empty, after = predictor.predict(["water", text, "water"])
    assert empty == []
    assert close(before, after)


@pytest.mark.parametrize("text", ["😀🧪", "water " * 50_000, "x" * 100_000, "lone \ud800 half", "نص عربي", "a\x00b"])
def test_unusual_texts_are_labelled(predictor: Predictor, text: str) -> None:
    assert len(predictor.predict(text)) == 5


def test_a_long_text_is_its_first_tokens(predictor: Predictor) -> None:
    start = " ".join(["hydrogen", "storage"] * MAX_LENGTH)
    assert close(predictor.predict(start), predictor.predict(start + " and something else"))


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", ["fine", None], ["fine", 3], [["nested"]]])
def test_what_is_no_text_is_refused(predictor: Predictor, wrong: object) -> None:
    with pytest.raises(TypeError, match=r"expected str|not iterable"):
        predictor.predict(wrong)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": 0}, {"top_k": -1}, {"threshold": 1.5}, {"threshold": -0.1}, {"threshold": float("nan")},
        {"threshold": "best"}, {"min_precision": 0.0}, {"min_precision": 1.1}, {"min_precision": float("nan")},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_before_any_work(predictor: Predictor, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        predictor.stream(["text"], **wrong)  # type: ignore[arg-type]


def test_ranking_texts_equals_ranking_their_tokens(predictor: Predictor, texts: list[str], store: TokenStore) -> None:
    from_texts, from_tokens = predictor.rank(texts, 10), predictor.rank(Documents(texts, store), 10)
    assert np.array_equal(from_texts.labels, from_tokens.labels)
    assert np.array_equal(from_texts.scores, from_tokens.scores)


def test_any_ranker_predicts(small_corpus: Corpus, texts: list[str]) -> None:
    train, vocabulary = small_corpus.splits["train"], small_corpus.vocabulary
    calibration = Calibration(0.5, -0.2, 0.1)
    for ranker in (NearestNeighbours.fit(Documents(train.texts), train.Y, 5), Popularity.fit(train.Y)):
        predictor, ranking = Predictor(ranker, vocabulary, calibration, 2), ranker.rank(Documents(texts), 4)
        for n, found in enumerate(predictor.stream([*texts, ""], top_k=4)):
            rows = ranking.labels[n][ranking.labels[n] != NO_LABEL] if n < len(texts) else []
            assert [prediction.id for prediction in found] == [vocabulary.ids[row] for row in rows]
            expected = calibration.apply(ranking.scores[n : n + 1])[0, : len(rows)] if n < len(texts) else []
            assert [prediction.probability for prediction in found] == pytest.approx(list(expected))
        assert predictor.threshold == 0.1
    with pytest.raises(ValueError, match="batch_size is 0, expected at least 1"):
        Predictor(ranker, vocabulary, calibration, 0)


def test_devices(artifact: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        device = pick_device("auto")
    assert f"device: {device.type}" in caplog.text
    for absent in ("cuda:99", "nonsense"):
        with pytest.raises(PredictionError, match="is not on this machine"):
            Predictor.load(artifact, device=absent)


def test_other_places_are_refused_by_name(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"is a 'cascadexml\.ranker\.cascade', expected a 'cascadexml\.artifact'"):
        Predictor.load(artifact / "rankers" / "cascade")
    with pytest.raises(FormatError, match="holds no manifest"):
        Predictor.load(tmp_path)
    with pytest.raises(DataError, match="http://host/model is no place for artifacts"):
        Predictor.load("http://host/model")


def test_the_package_has_no_attribute_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cascadexml.nonsense
