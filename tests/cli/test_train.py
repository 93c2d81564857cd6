"""`cascadexml train` on real records with a tiny random encoder."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cascadexml import Predictor
from cascadexml.artifact import open_artifact
from tests.conftest import sample_records
from tests.support.command_line import cascadexml
from tests.support.tiny_encoders import make_tiny_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_encoder("bert", tmp_path_factory.mktemp("encoder") / "encoder", layers=2)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder of 150 records to train on, 30 of test, and none of dev; three lines cannot be trained on."""
    folder = tmp_path / "source"
    folder.mkdir()
    for split, n in (("train", 150), ("test", 30)):
        lines = [json.dumps(record) for record in sample_records(split, n)]
        if split == "train":
            lines[3:3] = ["{no JSON", json.dumps({"id": "x", "text": "", "labels": ["a"]})]
            lines.append(json.dumps({"id": "y", "text": "a text without labels", "labels": []}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def settings(encoder: Path, *more: str) -> list[str]:
    values = [f"encoder.name={encoder}", "tokenize.max_length=32", "train.encoder_lr=0.001", "train.head_lr=0.01"]
    return [part for value in (*values, *more) for part in ("--set", value)]


def test_it_trains_an_artifact_and_tells_why_records_were_refused(source: Path, encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "mine"
    ended = cascadexml("train", source, "--out", out, "--device", "cpu", *settings(encoder, "train.epochs=3"))
    assert ended.exit_code == 0, ended.stderr
    artifact = open_artifact(out)
    documents = artifact.meta["documents"]
    assert documents["test"] == 30 and documents["train"] + documents["dev"] == 150 and documents["dev"] > 0
    assert artifact.meta["params"]["train"]["epochs"] == 3.0
    report = artifact.metrics()
    assert f"test P@1: {100 * report.model.figures['P@1']:.2f} %" in ended.stdout
    assert f"dev nDCG@5: {100 * report.dev['nDCG@5']:.2f} %" in ended.stdout
    assert report.calibration is not None and report.calibration.threshold == artifact.calibration().threshold
    assert Predictor.load(out, device="cpu").predict(sample_records("test", 1)[0]["text"])

    rejects = pq.read_table(tmp_path / "models" / "mine.rejects.parquet")
    assert sorted(rejects["reason"].to_pylist()) == ["labels_missing", "text_missing", "unparsable"]
    assert {4, 5, 153} == set(rejects["source_line"].to_pylist())
    assert "3 records were refused" in ended.stderr
    assert sorted(path.name for path in out.parent.iterdir()) == ["mine", "mine.rejects.parquet"]


def test_what_is_wrong_is_one_sentence_and_nothing_is_written(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "mine"
    for arguments, message in (
        ((source, "--set", "train.epoch=3"), "unknown key train.epoch"),
        ((source, "--set", "train.epochs"), "expected key=value"),
        ((tmp_path / "nowhere",), "is not there: give a file or folder"),
        ((source, "--set", "encoder.name=no such folder"), "no such folder"),
    ):
        ended = cascadexml("train", *arguments, "--out", out, "--device", "cpu")
        assert (ended.exit_code, ended.stdout) == (1, "")
        assert message in ended.stderr and ended.stderr.count("error:") == 1
    assert not out.exists()


def test_a_source_of_nothing_but_refused_records_is_refused(encoder: Path, tmp_path: Path) -> None:
    file = tmp_path / "records.csv"
    file.write_text("id,text,labels\n1,a text,\n2,another text,\n3,,sport\n", encoding="utf-8")
    ended = cascadexml("train", file, "--out", tmp_path / "model", *settings(encoder))
    assert ended.exit_code == 1
    assert "no record of train" in ended.stderr and "model.rejects.parquet says why" in ended.stderr
    assert pq.read_table(tmp_path / "model.rejects.parquet").num_rows == 3
