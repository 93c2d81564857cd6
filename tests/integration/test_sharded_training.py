"""Lean classifiers shared by processes: training gives what one process gives, killed or not, and the same model."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from cascadexml.data.corpus import Corpus, Split
from cascadexml.data.tokens import TokenStore
from cascadexml.labels.tree import LabelTree
from cascadexml.rankers.base import Documents
from cascadexml.rankers.loading import load_ranker
from tests.conftest import sample_records
from tests.support.tiny_runs import prepare

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
REPO = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
# Three micro-batches a step, and two in the last step of an epoch: some process has none, whatever their number.
KNOBS = {
    "sharded": True,
    "heads": "lean",
    "batch_size": 24,
    "micro_batch_size": 8,
    "clip_norm": 1.0,
    "epochs": 1.5,
    "evaluations_per_epoch": 2,
    "checkpoint_minutes": 0.0,
    "head_init": "centroid",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    return prepare(tmp_path_factory.mktemp("run"), small_corpus)


def command(prepared: Path, out: Path, processes: int, **knobs: Any) -> list[str]:
    torchrun = [str(Path(sys.executable).parent / "torchrun"), "--standalone", f"--nproc-per-node={processes}"]
    launcher = torchrun if processes > 1 else [sys.executable]
    return [*launcher, "-m", "tests.support.tiny_runs", str(prepared), str(out), json.dumps(KNOBS | knobs)]


def run(prepared: Path, out: Path, processes: int, *, ok: bool = True, **knobs: Any) -> str:
    """Train; what was recorded, or what was said where it must fail."""
    words = command(prepared, out, processes, **knobs)
    done = subprocess.run(words, cwd=REPO, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert (done.returncode == 0) is ok, done.stderr
    return done.stdout if ok else done.stderr


def figures(output: str, kind: str) -> list[float]:
    """What was recorded of a kind, such as "loss/", in order."""
    lines = [json.loads(line.split(" ", 1)[1]) for line in output.splitlines()]
    return [value for line in lines for name, value in line.items() if name.startswith(kind)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "network" / "model.safetensors")


def files(out: Path) -> dict[str, int]:
    """The files of a saved ranker and how large each is."""
    return {f.relative_to(out).as_posix(): f.stat().st_size for f in out.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def alone(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """What one process gives, with rows in either precision."""
    outs = {rows: tmp_path_factory.mktemp(rows) / "model" for rows in ("fp32", "bf16")}
    return {rows: (out, run(prepared, out, 1, lean_rows=rows)) for rows, out in outs.items()}


@pytest.mark.parametrize(("processes", "rows"), [(2, "fp32"), (4, "fp32"), (2, "bf16")])
def test_processes_that_share_rows_give_the_weights_losses_and_answers_of_one(
    prepared: Path, tmp_path: Path, alone: dict[str, tuple[Path, str]], processes: int, rows: str
) -> None:
    one, told = alone[rows]
    out = tmp_path / "model"
    output = run(prepared, out, processes, lean_rows=rows)
    assert len(figures(told, "loss/")) == 8 and len(figures(told, "dev/")) > 20
    for kind in ("loss/", "dev/"):
        assert figures(output, kind) == pytest.approx(figures(told, kind), rel=1e-4, abs=1e-5)
    expected, found = weights(one), weights(out)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        if value.dtype == torch.bfloat16:
            # Noise goes by seed, step and slot: rows are rounded alike, but where a sum's last bit decides.
            assert (found[name] == value).float().mean() > 0.999
        torch.testing.assert_close(found[name], value, atol=2e-4, rtol=1e-2, msg=lambda m, n=name: f"{n}: {m}")
    assert files(out) == files(one)
    assert list((tmp_path / "checkpoints").iterdir()) == []
    corpus, store = Corpus.load(prepared / "corpus", ["dev"]), TokenStore.open(prepared / "tokens" / "dev")
    rankings = [load_ranker(each, "cpu").rank(Documents(corpus.splits["dev"].texts, store), 10) for each in (one, out)]
    np.testing.assert_allclose(rankings[1].scores, rankings[0].scores, atol=1e-4)
    assert (rankings[0].labels == rankings[1].labels).mean() > 0.99


def kill_after(prepared: Path, out: Path, processes: int, lines: int) -> None:
    """SIGKILL the launcher and all its processes once so many lines were printed."""
    words = command(prepared, out, processes)
    launcher = subprocess.Popen(words, cwd=REPO, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    for _ in range(lines):
        launcher.stdout.readline()
    mine = psutil.Process(launcher.pid)
    group = [mine, *mine.children(recursive=True)]
    assert len(group) >= 1 + processes
    for process in group:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(group, timeout=20)
    launcher.wait()
    launcher.stdout.close()
    assert not out.exists()


def test_killed_again_and_again_a_group_ends_with_the_same_bits(prepared: Path, tmp_path: Path) -> None:
    run(prepared, tmp_path / "whole" / "model", 2)
    out = tmp_path / "cut" / "model"
    # At the first report, before there is a checkpoint; then later and later, each time from the last one.
    for lines in (1, 3, 2):
        kill_after(prepared, out, 2, lines)
    (last,) = (tmp_path / "cut" / "checkpoints").glob("*/last")
    kept = {file.name for file in last.iterdir()}
    assert kept >= {"model.safetensors", "model_1.safetensors", "optimizer_1.safetensors"}
    run(prepared, out, 2)
    expected, found = weights(tmp_path / "whole" / "model"), weights(out)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_a_checkpoint_of_another_number_of_processes_is_refused_in_one_sentence(prepared: Path, tmp_path: Path) -> None:
    kill_after(prepared, tmp_path / "model", 2, 3)
    told = run(prepared, tmp_path / "model", 4, ok=False)
    assert "holds the classifiers in 2 parts, one a process, and this run would have 4: start as many" in told
    told = run(prepared, tmp_path / "model", 1, ok=False)
    assert "holds the classifiers in 2 parts, one a process, and this run would have 1: start as many" in told


def test_classifiers_that_cannot_be_shared_are_refused_in_one_sentence(prepared: Path, tmp_path: Path) -> None:
    told = run(prepared, tmp_path / "model", 2, ok=False, heads="dense")
    assert "train.sharded is true and 2 processes can share no classifier" in told
    run(prepared, tmp_path / "model", 1, heads="dense", epochs=0.1)


def assert_close(one: Path, other: Path) -> None:
    expected, found = weights(one), weights(other)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_without_dev_the_last_weights_of_all_processes_are_saved(small_corpus: Corpus, tmp_path: Path) -> None:
    dev = small_corpus.splits["dev"]
    none = Split([], [], dev.Y[:0], dev.metadata.slice(0, 0))
    folder = prepare(tmp_path / "run", Corpus({**small_corpus.splits, "dev": none}, small_corpus.vocabulary))
    for name, processes in (("one", 1), ("two", 2)):
        run(folder, tmp_path / name / "model", processes, lean_rows="fp32", epochs=0.5)
    assert_close(tmp_path / "one" / "model", tmp_path / "two" / "model")


def test_a_warm_start_of_shared_classifiers_is_that_of_one_process(tmp_path: Path) -> None:
    records, dev = sample_records("train", 200), pa.Table.from_pylist(sample_records("dev", 30))
    before = Corpus.from_records({"train": pa.Table.from_pylist(records[:100]), "dev": dev}, {})
    after = Corpus.from_records({"train": pa.Table.from_pylist(records), "dev": dev}, {}, before.vocabulary)
    assert after.vocabulary.L > before.vocabulary.L
    base = prepare(tmp_path / "base", before)
    run(base, tmp_path / "base" / "model", 1, lean_rows="fp32", epochs=0.5)
    folder = prepare(tmp_path / "run", after, base=LabelTree.load(base / "tree"))
    warm = {"base": str(tmp_path / "base" / "model" / "network"), "warm_start": True, "epochs": 0.5}
    for name, processes in (("one", 1), ("two", 2)):
        run(folder, tmp_path / name / "model", processes, lean_rows="fp32", **warm)
    assert_close(tmp_path / "one" / "model", tmp_path / "two" / "model")
