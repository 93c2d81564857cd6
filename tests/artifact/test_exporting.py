"""An artifact exported to ONNX: the same model, whole or not at all, which tells what it was made from."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cascadexml import Predictor
from cascadexml.artifact import open_artifact
from cascadexml.artifact.exporting import export_artifact
from cascadexml.artifact.formats import ARTIFACT
from cascadexml.artifact.predecessor import open_predecessor
from cascadexml.bundle import MANIFEST
from cascadexml.data.corpus import Corpus
from cascadexml.errors import ConfigError, FormatError
from cascadexml.labels.tree import FORMAT as TREE_FORMAT
from cascadexml.monitoring.batch import read_batch
from cascadexml.monitoring.comparison import compare_batch
from cascadexml.rankers.popularity import Popularity
from tests.conftest import sample_records
from tests.support.command_line import cascadexml
from tests.support.params import SETTINGS
from tests.support.tiny_artifacts import pack_again, pack_tiny_blend, tiny_reference

KEPT = ("vocabulary.json", "calibration.json", "label_counts.npy", "metrics.json")
MIXTURE = "rankers/blend/mixture.json"


@pytest.fixture(scope="module")
def folder(small_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a blend with a reference, and its exports, made by the command."""
    folder = tmp_path_factory.mktemp("exports")
    pack_tiny_blend(folder, small_corpus)
    tiny_reference(folder, small_corpus)
    changes = {"ranker": folder / "blend", "reference": folder / "reference"}
    pack_again(folder / "torch", folder, small_corpus, **changes)
    for name, options in (("fp32", ()), ("int8", ("--int8",))):
        ended = cascadexml("export", folder / "torch", folder / name, "--format", "onnx", *options)
        assert (ended.exit_code, ended.stderr) == (0, ""), ended.stderr
        assert ended.stdout == f"{folder / name}: onnx, {name}, made from {folder / 'torch'}\n"
    return folder


def test_it_predicts_and_explains_what_the_original_does(folder: Path, small_corpus: Corpus) -> None:
    original, exported = (Predictor.load(folder / name, "cpu") for name in ("torch", "fp32"))
    texts = [*small_corpus.splits["test"].texts, ""]
    ours, theirs = (predictor.rank(texts, 10) for predictor in (exported, original))
    assert pytest.approx(ours.scores, abs=1e-4) == theirs.scores
    assert (ours.labels == theirs.labels).mean() > 0.99
    explained = exported.explain(texts[0], top_k=3)
    assert [each.prediction.id for each in explained] == [each.id for each in exported.predict(texts[0], top_k=3)]
    rounded = Predictor.load(folder / "int8", "cpu").rank(texts, 10)
    assert pytest.approx(rounded.scores, abs=0.05) == theirs.scores


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_all_but_the_encoder_is_the_originals(folder: Path, precision: str) -> None:
    original, exported = open_artifact(folder / "torch"), open_artifact(folder / precision)
    for name in (*KEPT, MIXTURE, *(file for file in original.bundle.files if file.startswith("reference/"))):
        assert exported.bundle.files[name] == original.bundle.files[name]
    told = exported.meta["exported"]
    assert (told["format"], told["precision"], told["artifact"]) == ("onnx", precision, original.fingerprint)
    assert {*told["libraries"]} >= {"onnx", "onnxruntime", "torch"}
    assert {**exported.meta, "exported": None} == {**original.meta, "exported": None}
    assert exported.measured_ranker == original.ranker_fingerprint == original.measured_ranker
    card = (exported.path / "model_card.md").read_text(encoding="utf-8")
    assert f"onnx, {precision}, from the artifact {original.fingerprint}" in card
    assert ("In int8 they may differ" in card) == (precision == "int8")
    assert "xported" not in (original.path / "model_card.md").read_text(encoding="utf-8")


def test_info_says_what_it_was_made_from(folder: Path) -> None:
    said = cascadexml("info", folder / "int8").stdout
    assert f"exported       onnx, int8, from the artifact {open_artifact(folder / 'torch').fingerprint}\n" in said
    assert "exported" not in cascadexml("info", folder / "torch").stdout


def test_a_cascade_alone_changes_its_kind(folder: Path, small_corpus: Corpus) -> None:
    export_artifact(open_artifact(folder / "artifact"), folder / "alone", "int8")
    found = open_artifact(folder / "alone")
    assert (found.meta["ranker"], found.meta["rankers"]) == ("cascade-onnx", ["cascade-onnx"])
    assert Predictor.load(folder / "alone", "cpu").predict(small_corpus.splits["test"].texts[0])


def test_later_records_are_compared_with_the_originals_reference(
    folder: Path, small_corpus: Corpus, tmp_path: Path
) -> None:
    pack_again(tmp_path / "torch", folder, small_corpus, reference=folder / "reference")
    export_artifact(open_artifact(tmp_path / "torch"), tmp_path / "int8", "int8")
    lines = "".join(json.dumps(record) + "\n" for record in sample_records("dev", 100))
    (tmp_path / "batch.jsonl").write_text(lines, encoding="utf-8")
    batch = read_batch(tmp_path / "batch.jsonl", "batch", SETTINGS.download, SETTINGS.validate)
    settings = replace(SETTINGS.drift, max_unseen_share=1.0)
    found = compare_batch(batch, open_artifact(tmp_path / "int8"), settings, device="cpu")
    assert found.profile is not None and found.profile.table.num_rows > 20


def test_it_is_no_start_for_training(folder: Path) -> None:
    older = open_predecessor(folder / "int8")
    assert older.vocabulary.L > 0
    with pytest.raises(
        ConfigError, match="was exported to onnx and cannot be trained further: start from the artifact"
    ):
        older.parts("network/tree", TREE_FORMAT, 1)
    with pytest.raises(FormatError, match="no cascade in torch"):
        _ = open_artifact(folder / "int8").network


def test_what_cannot_be_exported_is_told_in_one_line(folder: Path, small_corpus: Corpus, tmp_path: Path) -> None:
    Popularity.fit(small_corpus.splits["train"].Y[:, : small_corpus.vocabulary.L].tocsr()).save(tmp_path / "popular")
    pack_again(tmp_path / "of-popular", folder, small_corpus, ranker=tmp_path / "popular")
    for model, out, said in (
        (folder / "int8", tmp_path / "again", "was exported already: export the artifact that it was made from."),
        (tmp_path / "of-popular", tmp_path / "again", "is answered by popularity, which has no encoder"),
        (folder / "torch", folder / "torch", "is the artifact that is exported: name another folder."),
        (tmp_path / "nowhere", tmp_path / "again", "holds no manifest.json"),
    ):
        ended = cascadexml("export", model, out)
        assert ended.exit_code == 1
        assert said in ended.stderr and ended.stderr.count("\n") == 1
    assert not (tmp_path / "again").exists()
    assert open_artifact(folder / "torch").meta["ranker"] == "blend"


def test_a_manifest_that_does_not_say_from_what_is_refused(folder: Path, tmp_path: Path) -> None:
    source = open_artifact(folder / "int8")
    with ARTIFACT.write(tmp_path / "odd", {**source.meta, "exported": {"format": "onnx"}}) as new:
        for name in source.bundle.files:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes((source.path / name).read_bytes())
    with pytest.raises(FormatError, match="its manifest does not say from what"):
        open_predecessor(tmp_path / "odd").parts("network", TREE_FORMAT, 1)


def test_exporting_again_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    export_artifact(open_artifact(folder / "torch"), tmp_path / "again", "int8")
    assert (tmp_path / "again" / MANIFEST).read_bytes() == (folder / "int8" / MANIFEST).read_bytes()


def _export(source: Path, target: Path) -> None:
    export_artifact(open_artifact(source), target, "int8")


def test_an_export_that_is_killed_leaves_no_artifact(folder: Path, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_export, args=(folder / "torch", tmp_path / "out"))
    process.start()
    while process.is_alive() and not list(tmp_path.rglob("encoder.onnx")):
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    with pytest.raises(FormatError):
        open_artifact(tmp_path / "out")
