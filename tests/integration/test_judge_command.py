"""The command `cascadexml judge` in a project, with small models that were really trained."""

import json
import lzma
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from cascadexml.artifact import Origin
from cascadexml.bundle import sha256_of
from cascadexml.data.corpus import Corpus
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.serving.predictor import Predictor
from tests.conftest import sample_records
from tests.support.command_line import cascadexml
from tests.support.tiny_artifacts import pack_again
from tests.support.tiny_runs import prepare, train

pytestmark = pytest.mark.integration

N, TOP_K = 150, 30
CHANGES: dict[str, dict[str, Any]] = {
    "evaluate": {"ks": [1, 5], "top_k": TOP_K, "bootstrap_samples": 200},
    "judge": {"min_slice": 50},
    "train": {"device": "cpu"},
}


@dataclass(frozen=True)
class Models:
    """Where the artifacts lie: one that learned, one that hardly did, and the first under other labels."""

    corpus: Corpus
    records: list[dict[str, Any]]
    good: Path
    poor: Path
    foreign: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, sample_dir: Path) -> Models:
    """Tiny models learn little that holds elsewhere, so test is of records of train: what is tested is the command."""
    folder = tmp_path_factory.mktemp("models")
    with lzma.open(sample_dir / "label_texts.json.xz", "rt", encoding="utf-8") as file:
        names = json.load(file)
    records = sample_records("train", 300)
    held_out = [record | {"batch": "first" if n % 2 else None} for n, record in enumerate(records[:N])]
    tables = {"train": records, "dev": sample_records("dev", 60), "test": held_out}
    corpus = Corpus.from_records({name: pa.Table.from_pylist(rows) for name, rows in tables.items()}, names)
    prepare(folder, corpus)
    for name, epochs, start in (("poor", 0.5, "xavier"), ("good", 12.0, "centroid")):
        (folder / name).mkdir()
        train(folder, folder / name / "model", epochs=epochs, head_init=start, warmup_epochs=0.1)
        shutil.copytree(folder / "encoder", folder / name / "encoder")
        pack_again(folder / name / "artifact", folder / name, corpus)
    # Half of its labels carry ids that the corpus does not have.
    renamed = tuple(f"old:{i}" if row % 2 else i for row, i in enumerate(corpus.vocabulary.ids))
    pack_again(
        folder / "foreign" / "artifact",
        folder / "good",
        corpus,
        vocabulary=Vocabulary(renamed, corpus.vocabulary.names, corpus.vocabulary.L),
        origin=Origin(name="foreign", data_fingerprint="f" * 64),
    )
    return Models(corpus, held_out, *(folder / name / "artifact" for name in ("good", "poor", "foreign")))


@pytest.fixture
def project(tmp_path: Path, repo_root: Path, models: Models, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with nothing but settings, the corpus, and the good model as what training left: where the test is."""
    params = yaml.safe_load((repo_root / "params.yaml").read_text(encoding="utf-8"))
    for section, values in CHANGES.items():
        params[section] |= values
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    models.corpus.save(tmp_path / "data" / "interim" / "corpus")
    (tmp_path / "data" / "models").mkdir()
    (tmp_path / "data" / "models" / "artifact").symlink_to(models.good)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def judged(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "judgement.json").read_text(encoding="utf-8"))
    return found


def plain_ndcg(artifact: Path, records: list[dict[str, Any]]) -> float:
    """nDCG@5 by label ids, from what the model predicts and the records say."""
    total = 0.0
    # As many labels as the judgement asks for: where scores are equal, which comes first depends on it.
    predicted = Predictor.load(artifact, "cpu").predict([record["text"] for record in records], top_k=TOP_K)
    for record, labels in zip(records, predicted, strict=True):
        truth = set(record["labels"])
        gain = sum(1 / math.log2(i + 2) for i, label in enumerate(labels[:5]) if label.id in truth)
        total += gain / sum(1 / math.log2(i + 2) for i in range(min(5, len(truth))))
    return total / len(records)


def test_a_better_challenger_is_promoted_with_the_figures_of_both(project: Path, models: Models):
    run = cascadexml("judge", models.poor)
    assert run.exit_code == 0, run.stderr
    found = judged(project / "data" / "reports" / "judgement")
    assert found["promote"] is True
    assert found["champion"]["figures"]["nDCG@5"] == pytest.approx(plain_ndcg(models.poor, models.records))
    assert found["challenger"]["figures"]["nDCG@5"] == pytest.approx(plain_ndcg(models.good, models.records))
    assert found["difference"]["lower_bound"] > 0.05
    assert {"batch=first", "batch=(none)"} <= {part["name"] for part in found["slices"]}
    assert found["models"]["champion"]["fingerprint"] == sha256_of(models.poor / "manifest.json")
    assert found["notes"] == []
    page = (project / "data" / "reports" / "judgement" / "judgement.md").read_text(encoding="utf-8")
    assert page.startswith(f"**Promoted**, on {N} held-out documents.")
    assert found["reasons"][0].split(":")[0] in page
    assert run.stdout.splitlines()[0] == found["reasons"][0]
    assert run.stdout.splitlines()[-1].startswith("promote:")


def test_a_worse_challenger_is_refused_and_goes_where_it_is_told(project: Path, models: Models):
    run = cascadexml("judge", models.good, "--challenger", models.poor, "--out", "elsewhere")
    assert run.exit_code == 0, run.stderr
    found = judged(project / "elsewhere")
    assert found["promote"] is False
    assert run.stdout.splitlines()[-1].startswith("do not promote:")
    assert found["difference"]["high"] < 0
    assert any("slice batch=first falls" in reason for reason in found["reasons"])
    assert not (project / "data" / "reports").exists()


def test_labels_are_compared_by_id(project: Path, models: Models):
    run = cascadexml("judge", models.foreign)
    assert run.exit_code == 0, run.stderr
    found = judged(project / "data" / "reports" / "judgement")
    assert found["promote"] is True
    expected = plain_ndcg(models.foreign, models.records)
    assert found["champion"]["figures"]["nDCG@5"] == pytest.approx(expected)
    assert 0 < expected < found["challenger"]["figures"]["nDCG@5"]
    L = models.corpus.vocabulary.L
    assert f"The champion does not know {L // 2} of the {L} labels of train: they count as missed." in found["notes"]
    assert any("trained on other data than this corpus" in note for note in found["notes"])


def test_without_a_champion_the_challenger_is_promoted(project: Path):
    run = cascadexml("judge")
    assert run.exit_code == 0, run.stderr
    found = judged(project / "data" / "reports" / "judgement")
    assert found["promote"] is True
    assert found["champion"] is None
    assert "no champion yet" in found["reasons"][0]
    assert list(found["models"]) == ["challenger"]


def test_a_damaged_champion_is_one_line_and_leaves_nothing(project: Path, models: Models, tmp_path: Path):
    damaged = tmp_path / "damaged"
    shutil.copytree(models.poor, damaged)
    with (damaged / "rankers" / "cascade" / "network" / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        last = weights.read(1)
        weights.seek(-1, 2)
        weights.write(bytes([last[0] ^ 1]))
    run = cascadexml("judge", damaged)
    assert run.exit_code == 1
    (error,) = run.stderr.splitlines()
    assert error.startswith("cascadexml: error: ")
    assert "differs from the SHA-256" in error
    assert not (project / "data" / "reports").exists()


def test_a_champion_of_other_data_is_one_line_and_leaves_nothing(project: Path, models: Models, tmp_path: Path):
    vocabulary = models.corpus.vocabulary
    pack_again(
        tmp_path / "other",
        models.good.parent,
        models.corpus,
        vocabulary=Vocabulary(tuple(f"x:{i}" for i in vocabulary.ids), vocabulary.names, vocabulary.L),
        origin=Origin(name="other", data_fingerprint="f" * 64),
    )
    run = cascadexml("judge", tmp_path / "other")
    assert run.exit_code == 1
    (error,) = run.stderr.splitlines()
    assert error.startswith("cascadexml: error: ")
    assert "'other'" in error
    assert "package.name" in error
    assert not (project / "data" / "reports").exists()


def test_its_inputs_may_lie_anywhere(
    project: Path, models: Models, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    run = cascadexml("judge", models.good)
    assert run.exit_code == 1
    assert "params.yaml" in run.stderr
    places = {"challenger": models.poor, "corpus": project / "data/interim/corpus", "params": project / "params.yaml"}
    flags = [each for name, place in places.items() for each in (f"--{name}", place)]
    run = cascadexml("judge", *flags, "--out", "here")
    assert run.exit_code == 0, run.stderr
    assert judged(elsewhere / "here")["challenger"]["figures"]["nDCG@5"] == pytest.approx(
        plain_ndcg(models.poor, models.records)
    )
