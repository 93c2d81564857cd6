import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cascadexml import Predictor
from cascadexml.artifact import open_artifact
from cascadexml.config import EncoderSettings, Settings, TokenizeSettings
from cascadexml.data.corpus import Corpus
from cascadexml.errors import DataError, FormatError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.evaluation.held_out import Provenance, save_held_out
from cascadexml.monitoring.reference import Reference
from cascadexml.rankers.base import ranker_bundle
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.ranker import CascadeRanker
from stages import ARTIFACT, BLEND, CALIBRATION, CORPUS, HELD_OUT, REFERENCE, REPORTS, package, reference
from tests.support.params import SETTINGS
from tests.support.tiny_artifacts import seen_held_out, tiny_blend, tiny_metrics, tiny_model
from tests.support.tiny_encoders import make_tiny_encoder


@pytest.fixture
def settings(tmp_path: Path, small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A working folder in which every stage before packaging has run."""
    monkeypatch.chdir(tmp_path)
    encoder = make_tiny_encoder("bert", tmp_path / "encoder", layers=2)
    small_corpus.save(CORPUS)
    cascade = CascadeRanker(tiny_model(small_corpus, encoder), load_tokenizer("encoder"), 20)
    blend = tiny_blend(small_corpus, cascade)
    blend.save(BLEND)
    Calibration(0.8, -0.2, 0.3).save(CALIBRATION)
    provenance = Provenance(ranker_bundle(BLEND).fingerprint, small_corpus.fingerprint, 10)
    save_held_out(seen_held_out(small_corpus, blend), provenance, HELD_OUT)
    reference.main(SETTINGS)
    REPORTS.mkdir()
    tiny_metrics().save(REPORTS / "metrics.json")
    return replace(
        SETTINGS,
        encoder=EncoderSettings(name="encoder"),
        tokenize=TokenizeSettings(max_length=20),
        package=replace(SETTINGS.package, name="a model", intended_use="Testing only."),
    )


def test_the_artifact_holds_what_the_stages_before_made(settings: Settings, small_corpus: Corpus) -> None:
    package.main(settings)
    found = open_artifact(ARTIFACT)
    assert found.vocabulary() == small_corpus.vocabulary
    assert found.calibration() == Calibration(0.8, -0.2, 0.3)
    assert found.metrics() == tiny_metrics()
    assert (found.meta["ranker"], found.meta["rankers"], found.meta["max_length"]) == ("blend", ["blend"], 20)
    packed, trained = ARTIFACT / "rankers" / "blend", sorted(f for f in BLEND.rglob("*") if f.is_file())
    assert [(packed / f.relative_to(BLEND)).read_bytes() for f in trained] == [f.read_bytes() for f in trained]
    assert len(trained) == sum(f.is_file() for f in packed.rglob("*"))
    uses = np.asarray(small_corpus.splits["train"].Y.sum(axis=0)).ravel()
    assert found.label_counts().tolist() == uses.tolist()
    assert found.meta["name"] == "a model"
    assert found.meta["data_fingerprint"] == small_corpus.fingerprint
    assert found.meta["params"]["package"]["intended_use"] == "Testing only."
    assert (found.meta["git_revision"], found.meta["dvc_lock"]) == (None, None)
    assert "Testing only." in (ARTIFACT / "model_card.md").read_text()
    assert not {"drift", "retrain", "judge"} & set(found.meta["params"])
    assert found.reference is not None
    assert Reference.load(found.reference).meta == Reference.load(REFERENCE).meta
    assert len(Predictor.load(ARTIFACT, device="cpu").predict("water", top_k=2)) == 2


def test_what_was_trained_is_packed_whatever_has_become_of_its_encoder(settings: Settings) -> None:
    shutil.rmtree("encoder")
    package.main(settings)
    assert len(Predictor.load(ARTIFACT, device="cpu").predict("water", top_k=2)) == 2


def test_what_dvc_locked_of_the_stages_before_is_told_and_nothing_else(settings: Settings) -> None:
    def told(train: str, packed: str) -> object:
        stages = {"train": {"outs": [{"md5": train}]}, "package": {"outs": [{"md5": packed}]}}
        Path("dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))
        package.main(settings)
        return open_artifact(ARTIFACT).meta["dvc_lock"]

    assert told("1", "1") == told("1", "2") != told("2", "1")
    Path("dvc.lock").write_text("")
    package.main(settings)
    assert open_artifact(ARTIFACT).meta["dvc_lock"] is None


def test_running_twice_gives_the_same_artifact(settings: Settings) -> None:
    package.main(settings)
    first = (ARTIFACT / "manifest.json").read_bytes()
    package.main(settings)
    assert (ARTIFACT / "manifest.json").read_bytes() == first


def test_what_is_missing_is_named(settings: Settings) -> None:
    (REPORTS / "metrics.json").unlink()
    with pytest.raises(DataError, match=r"metrics\.json cannot be read"):
        package.main(settings)
    (REPORTS / "metrics.json").write_text("{}")
    (BLEND / "cascade" / "network" / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        package.main(settings)
    assert not ARTIFACT.exists()
