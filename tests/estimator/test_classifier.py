"""CascadeXMLClassifier on real records with a tiny random encoder."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from scipy import sparse
from sklearn.base import clone

from cascadexml import CascadeXMLClassifier, Predictor
from cascadexml.artifact import open_artifact
from cascadexml.config import ClusterSettings, EncoderSettings, EvaluateSettings, TokenizeSettings, TrainSettings
from cascadexml.errors import CascadeXMLError, ConfigError, DataError, PredictionError
from tests.conftest import sample_records
from tests.support.tiny_encoders import make_tiny_encoder

KNOBS: dict[str, Any] = {"epochs": 4.0, "encoder_lr": 1e-3, "head_lr": 1e-2, "max_length": 32, "device": "cpu"}
TEXTS, LABELS = ([record[key] for record in sample_records("train", 200)] for key in ("text", "labels"))
DEV = tuple([record[key] for record in sample_records("dev", 40)] for key in ("text", "labels"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_encoder("bert", tmp_path_factory.mktemp("encoder") / "encoder", layers=2))


@pytest.fixture(scope="module")
def fitted(encoder: str) -> CascadeXMLClassifier:
    return CascadeXMLClassifier(encoder=encoder, **KNOBS).fit(TEXTS, LABELS, dev=DEV)


def weights(artifact: Path) -> dict[str, Any]:
    (file,) = artifact.rglob("model.safetensors")
    return load_file(file)


def test_probabilities_rank_the_labels_that_the_texts_were_trained_with(fitted: CascadeXMLClassifier) -> None:
    P = fitted.predict_proba(TEXTS)
    assert P.shape == (200, len(fitted.classes_)) and sparse.issparse(P)
    assert P.data.min() >= 0 and P.data.max() <= 1
    best = fitted.classes_[np.asarray(P.argmax(axis=1)).ravel()]
    right = np.mean([label in labels for label, labels in zip(best, LABELS, strict=True)])
    popular = max(np.mean([label in labels for labels in LABELS]) for label in fitted.classes_)
    assert right > 3 * popular
    assert set(fitted.classes_) == {label for labels in LABELS for label in labels}
    assert {"nDCG@5", "micro_F1"} <= set(fitted.metrics_)


def test_predict_gives_the_labels_above_the_threshold_and_no_more_than_top_k(fitted: CascadeXMLClassifier) -> None:
    P = fitted.predict_proba(TEXTS[:20])
    lowest = float(np.median(P.data))
    one = clone(fitted).set_params(threshold=lowest, top_k=3)
    one._model = fitted._model
    for row, found in enumerate(one.predict(TEXTS[:20])):
        p = P[row].toarray().ravel()
        expected = [fitted.classes_[i] for i in np.argsort(-p, kind="stable")[:3] if p[i] >= lowest]
        assert sorted(found) == sorted(expected)
    tuned = fitted.predict(TEXTS[:20])
    threshold = open_artifact(fitted._fitted()[0].path).calibration().threshold
    assert [len(found) for found in tuned] == [min(5, int((P[row].data >= threshold).sum())) for row in range(20)]


def test_what_it_saves_is_the_artifact_that_predictor_opens(fitted: CascadeXMLClassifier, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    predictor = Predictor.load(tmp_path / "model", device="cpu")
    P = fitted.predict_proba(TEXTS[:10])
    for row, found in enumerate(predictor.predict(TEXTS[:10], top_k=4)):
        for each in found:
            column = int(np.flatnonzero(fitted.classes_ == each.id)[0])
            assert each.probability == pytest.approx(P[row, column], abs=1e-5)
    again = CascadeXMLClassifier.load(tmp_path / "model", device="cpu")
    assert again.predict(TEXTS[:10]) == fitted.predict(TEXTS[:10])
    assert np.abs((again.predict_proba(TEXTS[:10]) - P).toarray()).max() < 1e-5
    assert (again.epochs, again.max_length) == (fitted.epochs, fitted.max_length)
    card = (tmp_path / "model" / "model_card.md").read_text(encoding="utf-8")
    assert "Data licence: not stated." in card
    assert open_artifact(tmp_path / "model").meta["documents"] == {"train": 200, "dev": 40}


def test_an_ensemble_is_a_setting(encoder: str, tmp_path: Path) -> None:
    knobs = {**KNOBS, "epochs": 1.0, "encoder": encoder, "checkpoint_dir": tmp_path / "checkpoints"}
    classifier = CascadeXMLClassifier(settings={"train.ensemble": 2}, **knobs).fit(TEXTS[:60], LABELS[:60], dev=DEV)
    classifier.save(tmp_path / "model")
    assert open_artifact(tmp_path / "model").meta["networks"] == 2
    assert len(list((tmp_path / "model").rglob("network/model.safetensors"))) == 2
    assert CascadeXMLClassifier.load(tmp_path / "model", device="cpu").predict(TEXTS) == classifier.predict(TEXTS)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_clone_and_params_are_what_scikit_learn_expects(encoder: str) -> None:
    given = {**KNOBS, "encoder": encoder, "settings": {"cluster.leaf_size": 4}, "top_k": 7}
    classifier = CascadeXMLClassifier(**given)
    params = classifier.get_params()
    assert {name: params[name] for name in given} == given
    copy = clone(classifier)
    assert copy is not classifier and copy.get_params() == params
    assert classifier.set_params(epochs=2.0) is classifier and classifier.epochs == 2.0 and copy.epochs == 4.0
    with pytest.raises(ValueError, match="'epoch' is no parameter"):
        classifier.set_params(epoch=1)


def test_defaults_are_those_of_the_pipeline() -> None:
    made = CascadeXMLClassifier()._settings()
    assert made.seed == 0
    assert (made.encoder, made.tokenize) == (EncoderSettings(), TokenizeSettings())
    assert (made.cluster, made.train, made.evaluate) == (ClusterSettings(), TrainSettings(), EvaluateSettings())


def test_an_indicator_s_columns_keep_their_order_and_names(encoder: str) -> None:
    names = sorted({label for labels in LABELS[:60] for label in labels}, reverse=True)
    names.append("never used")
    dense = np.array([[name in labels for name in names] for labels in LABELS[:60]], dtype=np.int64)
    knobs = {**KNOBS, "encoder": encoder, "epochs": 1.0}
    one = CascadeXMLClassifier(**knobs).fit(TEXTS[:60], dense, classes=names)
    assert one.classes_.tolist() == names
    P = one.predict_proba(TEXTS[:60])
    other = CascadeXMLClassifier(**knobs).fit(TEXTS[:60], sparse.csr_matrix(dense))
    assert other.classes_.tolist() == [str(column) for column in range(len(names))]
    assert np.abs((other.predict_proba(TEXTS[:60]) - P).toarray()).max() == 0.0
    assert one.metrics_ == {}


class Killed(Exception):  # noqa: N818
    """Stands for the end of the process."""


def test_a_killed_fit_goes_on_from_its_checkpoint_to_the_same_bits(encoder: str, tmp_path: Path) -> None:
    knobs = {**KNOBS, "encoder": encoder, "settings": {"train.checkpoint_minutes": 0.0}}
    whole = CascadeXMLClassifier(**knobs).fit(TEXTS, LABELS, dev=DEV)
    whole.save(tmp_path / "whole")
    seen: list[int] = []

    def die(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if what == "train" and done >= 20:
            raise Killed

    def watch(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        seen.extend([done] if what == "train" else [])

    kept = tmp_path / "checkpoints"
    with pytest.raises(Killed):
        CascadeXMLClassifier(**knobs, checkpoint_dir=kept, progress=die).fit(TEXTS, LABELS, dev=DEV)
    again = CascadeXMLClassifier(**knobs, checkpoint_dir=kept, progress=watch).fit(TEXTS, LABELS, dev=DEV)
    assert min(seen) > 10
    again.save(tmp_path / "again")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "again")
    assert [name for name in one if not np.array_equal(one[name].numpy(), other[name].numpy())] == []
    assert list(kept.iterdir()) == []


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ([], [], "train has no texts"),
        ("a text", [["a"]], "are one str"),
        (["a text"], [["a"], ["b"]], "1 texts and 2 rows of labels"),
        (["a text", 3], [["a"], ["b"]], "row 1 of train has a text that is int"),
        (["a text", "  "], [["a"], ["b"]], r"row 1 of train cannot be trained on \(text_missing"),
        (["a text", "another"], [["a"], []], r"row 1 of train cannot be trained on \(labels_missing"),
        (["a text", "another"], [["a"], "b"], "row 1 of the labels of train is 'b', expected a list"),
        (["a text", "another"], [["a"], [7]], "row 1 of the labels of train holds 7, expected str"),
        (["a text", "another"], np.array([[0, 1], [2, 0]]), "row 1 of the indicator of train"),
        (["a text \ud800"], [["a"]], "half a surrogate pair"),
    ],
)
def test_bad_input_is_refused_by_row(texts: Any, labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        CascadeXMLClassifier(device="cpu").fit(texts, labels)


def test_dev_in_another_form_than_train_is_refused() -> None:
    with pytest.raises(DataError, match="the labels of dev have not the form"):
        CascadeXMLClassifier().fit(["a text"], [["a"]], dev=(["a text"], np.array([[1]])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": {"train.epoch": 1}}, r"unknown key train\.epoch"),
        ({"settings": {"train.epochs": 1}}, r"settings holds train\.epochs, which is an argument"),
        ({"settings": {"train": {"epochs": 1}}}, r"settings holds train\.epochs, which is an argument"),
        ({"epochs": -1.0}, r"train\.epochs is -1"),
        ({"batch_size": 0}, r"train\.batch_size is 0"),
        ({"device": "abacus"}, "abacus"),
        ({"settings": {"seed.x": 1}}, "seed"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CascadeXMLClassifier(**arguments).fit(["a text"], [["a"]])


def test_before_it_is_fitted_it_says_so() -> None:
    with pytest.raises(PredictionError, match="not fitted: call fit, or load"):
        CascadeXMLClassifier().predict(["a text"])


def test_without_scikit_learn_it_says_what_to_install(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ConfigError, match=r'pip install "cascadexml\[train\]"'):
        CascadeXMLClassifier(encoder=encoder, **KNOBS).fit(TEXTS[:20], LABELS[:20])


def test_an_unknown_encoder_is_one_sentence() -> None:
    with pytest.raises(CascadeXMLError, match="no such folder"):
        CascadeXMLClassifier(encoder="no such folder").fit(["a text"], [["a"]])
