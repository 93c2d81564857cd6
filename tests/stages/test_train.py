"""The stages cluster, train and blend with `train.ensemble`: what lies on disk, and who reads it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import stages
from cascadexml.bundle import kind_of
from cascadexml.config import EncoderSettings, LinearSettings, Settings, TokenizeSettings, TrainSettings
from cascadexml.data.corpus import Corpus
from cascadexml.errors import ConfigError
from cascadexml.evaluation.plots import training_curves
from cascadexml.labels.forest import load_trees
from cascadexml.rankers.base import Documents
from cascadexml.rankers.blend import Blend
from cascadexml.rankers.ensemble import Ensemble
from cascadexml.training.step import PARTS
from stages import blend, cluster, linear, tokenize, train
from tests.support.params import SETTINGS
from tests.support.tiny_encoders import make_tiny_encoder

QUICK = {"epochs": 1.0, "device": "cpu", "precision": "fp32", "evaluations_per_epoch": 1}


@pytest.fixture
def settings(small_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    make_tiny_encoder("bert", tmp_path / "encoder", layers=2)
    small_corpus.save(stages.CORPUS)
    found = replace(
        SETTINGS,
        encoder=EncoderSettings(name="encoder"),
        tokenize=TokenizeSettings(max_length=24, processes=1),
        train=TrainSettings(**QUICK),
        linear=LinearSettings(),
    )
    tokenize.main(found)
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def height(png: Path) -> int:
    return int.from_bytes(png.read_bytes()[20:24], "big")


def test_two_networks_are_clustered_trained_and_blended(settings: Settings, small_corpus: Corpus) -> None:
    cluster.main(settings)
    train.main(settings)
    tree, model, quality = content(stages.TREE), content(stages.MODEL), (stages.REPORTS / "tree.json").read_bytes()
    assert kind_of(stages.MODEL) == "cascadexml.ranker.cascade"
    curves = stages.REPORTS / "training"
    assert training_curves(curves, Path("one.png"))
    assert {path.name for path in (curves / "plots" / "metrics").iterdir()} == {
        "loss",
        "rate",
        "speed",
        "memory",
        "dev",
    }

    both = replace(settings, train=replace(settings.train, ensemble=2))
    with pytest.raises(ConfigError, match=r"train\.ensemble is 2, and data/interim/tree holds 1 trees"):
        train.main(both)
    cluster.main(both)
    first, second = load_trees(stages.TREE, 2)
    assert first.leaf_order.tolist() != second.leaf_order.tolist()
    assert json.loads((stages.REPORTS / "tree.json").read_bytes())["tree_0"] == json.loads(quality)
    train.main(both)
    assert {f"member_0/{name}" for name in model} <= set(content(stages.MODEL))
    assert content(stages.MODEL / "member_0") == model
    assert content(stages.TREE / "tree_0") == tree
    assert {path.name for path in (curves / "plots" / "metrics").iterdir()} == {"member_0", "member_1"}
    assert training_curves(curves, Path("both.png"))
    assert height(Path("both.png")) == 2 * height(Path("one.png"))
    assert list(stages.CHECKPOINTS.iterdir()) == []

    linear.main(both)
    blend.main(both)
    loaded = Blend.load(stages.BLEND, "cpu")
    assert isinstance(loaded.sources.cascade, Ensemble)
    assert loaded.rank(Documents(small_corpus.splits["test"].texts), 5).shape == (60, 5)


def test_a_profile_tells_the_parts_of_a_step_and_trains_nothing(settings: Settings) -> None:
    cluster.main(settings)
    train.main(settings, profile=2)
    text = train.PROFILE.read_text(encoding="utf-8")
    assert text.startswith("2 steps of ")
    told = {name: float(re.search(rf"{name} +([0-9.]+) ms", text)[1]) for name in PARTS}  # type: ignore[index]
    assert min(told.values()) > 0
    assert told["step: backward"] > told["step: batch"]
    assert re.search(r"peak of memory: [0-9.]+ GiB", text)
    assert "aten::addmm" in text
    assert not stages.MODEL.exists()
    with pytest.raises(ConfigError, match="1000 steps cannot be profiled: expected 1 to"):
        train.main(settings, profile=1000)
