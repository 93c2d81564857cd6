"""The stage judgement as a process of its own, with small models that were really trained."""

import json
import lzma
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cascadexml.artifact.artifact import Origin
from cascadexml.bundle import sha256_of
from cascadexml.data.corpus import Corpus
from cascadexml.data.vocabulary import Vocabulary
from cascadexml.serving.predictor import Predictor
from tests.conftest import sample_records
from tests.support.tiny_artifacts import pack_again
from tests.support.tiny_runs import prepare, train

pytestmark = pytest.mark.integration

N, TOP_K = 150, 30
PARAMS = f"""
evaluate: {{ks: [1, 5], top_k: {TOP_K}, bootstrap_samples: 200}}
judge: {{min_slice: 50}}
train: {{device: cpu}}
"""


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
    """Tiny models learn little that holds elsewhere, so test is of records of train: what is tested is the stage."""
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
        pack_again(folder / name / "artifact", folder / name, corpus, model=folder / name / "model" / "network")
    # Half of its labels carry ids that the corpus does not have.
    renamed = tuple(f"old:{i}" if row % 2 else i for row, i in enumerate(corpus.vocabulary.ids))
    pack_again(
        folder / "foreign" / "artifact",
        folder / "good",
        corpus,
        model=folder / "good" / "model" / "network",
        vocabulary=Vocabulary(renamed, corpus.vocabulary.names, corpus.vocabulary.L),
        origin=Origin(name="foreign", data_fingerprint="f" * 64),
    )
    return Models(corpus, held_out, *(folder / name / "artifact" for name in ("good", "poor", "foreign")))


Judge = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def project(tmp_path: Path, repo_root: Path, models: Models) -> Path:
    """An empty project with the corpus, and the good model as what training left."""
    (tmp_path / "stages").symlink_to(repo_root / "stages")
    (tmp_path / "params.yaml").write_text(PARAMS, encoding="utf-8")
    models.corpus.save(tmp_path / "data" / "interim" / "corpus")
    (tmp_path / "data" / "models").mkdir()
    (tmp_path / "data" / "models" / "artifact").symlink_to(models.good)
    return tmp_path


@pytest.fixture
def run_stage(project: Path) -> Judge:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "stages.judgement", *map(str, arguments)]
        return subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=200)

    return run


def judged(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "judgement.json").read_text(encoding="utf-8"))
    return found


def plain_ndcg(artifact: Path, records: list[dict[str, Any]]) -> float:
    """nDCG@5 by label ids, from what the model predicts and the records say."""
    total = 0.0
    # As many labels as the stage asks for: these small models give equal scores, and which comes first depends on it.
    predicted = Predictor.load(artifact, "cpu").predict([record["text"] for record in records], top_k=TOP_K)
    for record, labels in zip(records, predicted, strict=True):
        truth = set(record["labels"])
        gain = sum(1 / math.log2(i + 2) for i, label in enumerate(labels[:5]) if label.id in truth)
        total += gain / sum(1 / math.log2(i + 2) for i in range(min(5, len(truth))))
    return total / len(records)


def test_a_better_challenger_is_promoted_with_the_figures_of_both(run_stage: Judge, project: Path, models: Models):
    run = run_stage(models.poor)
    assert run.returncode == 0, run.stderr
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


def test_a_worse_challenger_is_refused_and_goes_where_it_is_told(run_stage: Judge, project: Path, models: Models):
    run = run_stage(models.good, "--challenger", models.poor, "--out", "elsewhere")
    assert run.returncode == 0, run.stderr
    found = judged(project / "elsewhere")
    assert found["promote"] is False
    assert found["difference"]["high"] < 0
    assert any("slice batch=first falls" in reason for reason in found["reasons"])
    assert not (project / "data" / "reports").exists()


def test_labels_are_compared_by_id(run_stage: Judge, project: Path, models: Models):
    run = run_stage(models.foreign)
    assert run.returncode == 0, run.stderr
    found = judged(project / "data" / "reports" / "judgement")
    assert found["promote"] is True
    expected = plain_ndcg(models.foreign, models.records)
    assert found["champion"]["figures"]["nDCG@5"] == pytest.approx(expected)
    assert 0 < expected < found["challenger"]["figures"]["nDCG@5"]
    L = models.corpus.vocabulary.L
    assert f"The champion does not know {L // 2} of the {L} labels of train: they count as missed." in found["notes"]
    assert any("trained on other data than this corpus" in note for note in found["notes"])


def test_without_a_champion_the_challenger_is_promoted(run_stage: Judge, project: Path):
    run = run_stage()
    assert run.returncode == 0, run.stderr
    found = judged(project / "data" / "reports" / "judgement")
    assert found["promote"] is True
    assert found["champion"] is None
    assert "no champion yet" in found["reasons"][0]
    assert list(found["models"]) == ["challenger"]


def test_a_damaged_champion_is_one_line_and_leaves_nothing(
    run_stage: Judge, project: Path, models: Models, tmp_path: Path
):
    damaged = tmp_path / "damaged"
    shutil.copytree(models.poor, damaged)
    with (damaged / "model" / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        last = weights.read(1)
        weights.seek(-1, 2)
        weights.write(bytes([last[0] ^ 1]))
    run = run_stage(damaged)
    assert run.returncode == 1
    errors = [line for line in run.stderr.splitlines() if "INFO" not in line]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "differs from the SHA-256" in errors[0]
    assert not (project / "data" / "reports").exists()
