import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cascadexml import Predictor
from cascadexml.artifact.artifact import open_artifact
from cascadexml.config import EncoderSettings, PackageSettings, Settings, TokenizeSettings
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import TokenStore
from cascadexml.errors import DataError, FormatError
from cascadexml.evaluation.calibration import Calibration
from cascadexml.monitoring.reference import Reference
from cascadexml.rankers.cascade.encoder import load_tokenizer
from cascadexml.rankers.cascade.ranker import CascadeRanker
from stages import ARTIFACT, CALIBRATION, CORPUS, MODEL, REFERENCE, REPORTS, TOKENS, package, reference
from tests.support.tiny_artifacts import tiny_metrics, tiny_model
from tests.support.tiny_encoders import make_tiny_encoder


@pytest.fixture
def settings(tmp_path: Path, small_corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A working folder in which every stage before packaging has run."""
    monkeypatch.chdir(tmp_path)
    encoder = make_tiny_encoder("bert", tmp_path / "encoder", layers=2)
    small_corpus.save(CORPUS)
    CascadeRanker(tiny_model(small_corpus, encoder), load_tokenizer("encoder"), 20).save(MODEL)
    Calibration(0.8, -0.2, 0.3).save(CALIBRATION)
    for name in ("dev", "test"):
        TokenStore.build(TOKENS / name, small_corpus.splits[name].texts, load_tokenizer("encoder"), 20)
    reference.main(Settings())
    REPORTS.mkdir()
    tiny_metrics().save(REPORTS / "metrics.json")
    return replace(
        Settings(),
        encoder=EncoderSettings(name="encoder"),
        tokenize=TokenizeSettings(max_length=20),
        package=PackageSettings(name="a model", intended_use="Testing only."),
    )


def test_the_artifact_holds_what_the_stages_before_made(settings: Settings, small_corpus: Corpus) -> None:
    package.main(settings)
    found = open_artifact(ARTIFACT)
    assert found.vocabulary() == small_corpus.vocabulary
    assert found.calibration() == Calibration(0.8, -0.2, 0.3)
    assert found.metrics() == tiny_metrics()
    assert found.max_length == 20
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
    (MODEL / "network" / "model.safetensors").unlink()
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        package.main(settings)
    assert not ARTIFACT.exists()


def test_the_git_revision_is_the_commit_and_says_when_code_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    for name in ("code.py", "dvc.lock", "data/report.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one")
    git("add", ".")
    git("commit", "-q", "-m", "One")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "dvc.lock").write_text("two")
    (tmp_path / "data" / "report.json").write_text("two")
    (tmp_path / "untracked.txt").write_text("two")
    assert package.git_revision() == commit
    (tmp_path / "code.py").write_text("two")
    assert package.git_revision() == f"{commit}-dirty"


def test_the_lock_digest_covers_the_stages_before_this_one(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    assert package.lock_digest(lock) is None

    def digest(train: str, packed: str) -> str | None:
        stages = {"train": {"cmd": "t", "outs": [{"md5": train}]}, "package": {"cmd": "p", "outs": [{"md5": packed}]}}
        lock.write_text(json.dumps({"schema": "2.0", "stages": stages}))
        return package.lock_digest(lock)

    assert digest("1", "1") == digest("1", "2") != digest("2", "1")
    lock.write_text("schema: '2.0'\n")
    assert package.lock_digest(lock) is None
