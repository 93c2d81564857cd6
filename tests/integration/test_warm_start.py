"""Warm starts in processes of their own: killed, shared by two, and through the whole pipeline with a later batch."""

import itertools
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from cascadexml import Predictor
from cascadexml.artifact.artifact import open_artifact
from cascadexml.data.corpus import Corpus
from cascadexml.labels.tree import LabelTree
from tests.conftest import sample_records
from tests.integration.conftest import REPO, Project
from tests.support.tiny_runs import prepare, train

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a warm start needs: `run`, over records with labels that the model `base` has not seen."""
    folder = tmp_path_factory.mktemp("warm")
    records, dev = sample_records("train", 300), pa.Table.from_pylist(sample_records("dev", 60))
    before = Corpus.from_records({"train": pa.Table.from_pylist(records[:200]), "dev": dev}, {})
    after = Corpus.from_records({"train": pa.Table.from_pylist(records), "dev": dev}, {}, before.vocabulary)
    prepare(folder / "old", before)
    train(folder / "old", folder / "trained" / "base", head_init="centroid")
    prepare(folder / "run", after, base=LabelTree.load(folder / "old" / "tree"))
    return folder


def command(prepared: Path, out: Path, *launcher: str, **knobs: Any) -> list[str]:
    knobs = {"checkpoint_minutes": 0.0, "evaluations_per_epoch": 2, "epochs": 1.5, "warm_start": True, **knobs}
    knobs["base"] = str(prepared / "trained" / "base" / "network")
    return [*(launcher or (sys.executable,)), "-m", "tests.support.tiny_runs", str(prepared / "run"), str(out),
            json.dumps(knobs)]  # fmt: skip


def run(command: list[str], out: Path) -> dict[str, torch.Tensor]:
    done = subprocess.run(command, cwd=REPO, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return load_file(out / "network" / "model.safetensors")


def test_killed_again_and_again_it_ends_with_the_same_bits(prepared: Path, tmp_path: Path) -> None:
    expected = run(command(prepared, tmp_path / "whole" / "model"), tmp_path / "whole" / "model")
    out = tmp_path / "cut" / "model"
    for lines in (1, 3):
        process = subprocess.Popen(command(prepared, out), cwd=REPO, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        assert not out.exists()
    found = run(command(prepared, out), out)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_two_processes_give_the_result_of_one(prepared: Path, tmp_path: Path) -> None:
    knobs = {"micro_batch_size": 8, "epochs": 0.5}
    alone = run(command(prepared, tmp_path / "one" / "model", **knobs), tmp_path / "one" / "model")
    torchrun = (str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node=2")
    shared = run(command(prepared, tmp_path / "two" / "model", *torchrun, **knobs), tmp_path / "two" / "model")
    assert set(alone) == set(shared)
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture
def project(at_rest: tuple[Project, str]) -> Iterator[Project]:
    """The finished project with its own artifact as base; all of that is taken back afterwards."""
    project = at_rest[0]
    project.sh("cp -r data/models/artifact data/base/artifact")
    yield project
    project.sh("rm -rf data/base/artifact data/accepted/*.parquet")
    project.sh("git checkout --quiet . && dvc checkout --quiet --force")


def incoming(n: int) -> list[dict[str, Any]]:
    with lzma.open(REPO / "data/sample/incoming/2022-2025.jsonl.xz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in itertools.islice(lines, n)]


def test_a_later_batch_and_a_warm_start_give_a_model_that_knows_both(project: Project) -> None:
    root = project.root
    records = incoming(300)
    pq.write_table(pa.Table.from_pylist(records), root / "data/accepted/2022-2025.parquet")
    project.sh("cascadexml params set train.warm_start=true train.epochs=0.5")
    ran = project.ran(project.sh("dvc repro validate") + project.sh("dvc repro package"))
    assert set(ran) >= {"download", "validate", "tokenize", "cluster", "train"}

    before, after = (open_artifact(root / f"data/{where}/artifact") for where in ("base", "models"))
    old, new = before.vocabulary(), after.vocabulary()
    assert new.ids[: old.L] == old.ids[: old.L]
    assert new.L > old.L + 100
    base, tree = LabelTree.load(before.tree), LabelTree.load(after.tree)
    for level in range(len(base.levels)):
        assert (tree.cluster_of(level)[: old.L] == base.cluster_of(level)).all()

    corpus = Corpus.load(root / "data/interim/corpus")
    told = json.loads((root / "data/raw/source.json").read_text())["batches"]
    ids = {record["id"] for record in records}
    for name, split in corpus.splits.items():
        batches = split.metadata["batch"].to_pylist()
        assert batches.count("2022-2025") == len(ids & set(split.ids)) == told[0]["records"][name] > 0
    taught = set(corpus.splits["train"].ids)
    unseen = set(new.ids[old.L : new.L])
    shown = [record for record in records if record["id"] in taught and unseen & set(record["labels"])]
    predictor = Predictor.load(root / "data/models/artifact")
    found = predictor.predict([record["text"] for record in shown], top_k=20)
    hits = [bool(unseen & set(r["labels"]) & {p.id for p in ps}) for r, ps in zip(shown, found, strict=True)]
    assert len(hits) > 50
    assert sum(hits) / len(hits) > 0.5

    assert project.ran(project.sh("dvc repro package")) == []
    # The next batch moves no record of this one.
    pq.write_table(pa.Table.from_pylist(incoming(400)[300:]), root / "data/accepted/2026.parquet")
    project.sh("dvc repro download")
    for name, split in corpus.splits.items():
        again = pq.read_table(root / f"data/raw/{name}.parquet", columns=["id"])["id"].to_pylist()
        assert set(split.ids) <= set(again)


def test_a_warm_start_without_a_base_stops_with_one_sentence(project: Project) -> None:
    shutil.rmtree(project.root / "data/base/artifact")
    project.sh("cascadexml params set train.warm_start=true")
    output = project.sh("dvc repro package", ok=False)
    assert "error: train.warm_start is true and data/base/artifact does not exist: put the artifact" in output
    assert "Traceback" not in output
