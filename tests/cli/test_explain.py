"""`cascadexml predict --explain` on an artifact of a tiny blend."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special

from cascadexml import Predictor
from cascadexml.data.corpus import Corpus
from tests.conftest import sample_records
from tests.support.command_line import cascadexml
from tests.support.tiny_artifacts import pack_tiny_blend


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    return pack_tiny_blend(tmp_path_factory.mktemp("cli"), small_corpus)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lines") / "lines.txt"
    lines = [json.dumps(record) for record in sample_records("test", 6)]
    path.write_text("\n".join([*lines[:3], "", '{"broken"', *lines[3:]]), encoding="utf-8")
    return path


def answers(artifact: Path, source: Path, *arguments: object) -> list[dict[str, Any]]:
    ended = cascadexml("predict", artifact, "--input", source, "--keep-going", "--device", "cpu", *arguments)
    assert (ended.exit_code, ended.stderr) == (0, "")
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_without_the_explanations_the_lines_are_those_of_predict(artifact: Path, source: Path) -> None:
    plain = answers(artifact, source, "--top-k", 4)
    explained = answers(artifact, source, "--top-k", 4, "--explain")
    assert len(plain) == 8 and "explanation" not in json.dumps(plain)
    for answer in explained:
        for found in answer.get("predictions", []):
            assert set(found.pop("explanation")) == {"log_odds", "shares", "calibration", "terms", "records"}
    assert explained == plain
    assert explained[3] == {"line": 4, "predictions": []} and "error" in explained[4]


def test_each_explanation_is_the_librarys_and_adds_up(artifact: Path, source: Path) -> None:
    predictor = Predictor.load(artifact, device="cpu")
    shown = [a for a in answers(artifact, source, "--top-k", 4, "--explain") if a.get("predictions")]
    expected = predictor.explain([record["text"] for record in sample_records("test", 6)], top_k=4)
    terms = 0
    for answer, explained in zip(shown, expected, strict=True):
        for found, each in zip(answer["predictions"], explained, strict=True):
            why, reason = found["explanation"], each.explanation
            assert sum(why["shares"].values()) == pytest.approx(why["log_odds"], abs=1e-5)
            assert special.expit(why["log_odds"] + why["calibration"]) == pytest.approx(found["probability"], abs=1e-5)
            assert why["shares"] == pytest.approx(dict(reason.shares), abs=1e-4)
            assert [(r["id"], r["source"]) for r in why["records"]] == [(r.id, r.source) for r in reason.records]
            cosines = [near.cosine for near in reason.records]
            assert np.allclose([near["cosine"] for near in why["records"]], cosines, rtol=0, atol=1e-5)
            assert (why["terms"] is None) == (reason.words is None)
            if reason.words is not None:
                terms += 1
                assert [t["term"] for t in why["terms"]["for"]] == [t.term for t in reason.words.speak_for]
                assert [t["term"] for t in why["terms"]["against"]] == [t.term for t in reason.words.speak_against]
                told = sum(t["adds"] for t in why["terms"]["for"] + why["terms"]["against"])
                total = told + why["terms"]["others"] + why["terms"]["bias"]
                assert total == pytest.approx(reason.words.log_odds, abs=1e-4)
    assert terms > 5
