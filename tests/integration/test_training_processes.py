"""Training in processes of its own: killed at any moment, and shared by two."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cascadexml.data.corpus import Corpus
from tests.support.tiny_runs import prepare

pytestmark = pytest.mark.integration
REPO = Path(__file__).resolve().parents[2]
TORCHRUN = (str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node=2")
KNOBS = {"checkpoint_minutes": 0.0, "evaluations_per_epoch": 2, "epochs": 1.5, "head_init": "centroid"}
# One thread: two processes on two cores must not fight, and sums must not depend on how many cores a machine has.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> Path:
    return prepare(tmp_path_factory.mktemp("run"), small_corpus)


def command(prepared: Path, out: Path, knobs: dict[str, Any], *launcher: str) -> list[str]:
    module = [*(launcher or (sys.executable,)), "-m", "tests.support.tiny_runs"]
    return [*module, str(prepared), str(out), json.dumps(knobs)]


def run(prepared: Path, out: Path, knobs: dict[str, Any], *launcher: str, member: str = "") -> dict[str, torch.Tensor]:
    done = subprocess.run(
        command(prepared, out, knobs, *launcher), cwd=REPO, env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return load_file(out / member / "network" / "model.safetensors")


def test_killed_again_and_again_it_ends_with_the_same_bits(prepared: Path, tmp_path: Path) -> None:
    expected = run(prepared, tmp_path / "whole" / "model", KNOBS)
    out = tmp_path / "cut" / "model"
    kills = 0
    # The line at which each process is killed lies in another phase: before the first checkpoint, at evaluations, late.
    for lines in (1, 2, 3):
        process = subprocess.Popen(
            command(prepared, out, KNOBS), cwd=REPO, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        assert not out.exists()
    assert kills == 3
    found = run(prepared, out, KNOBS)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.parametrize(("heads", "negatives"), [("dense", "shortlist"), ("lean", "shortlist"), ("lean", "all")])
def test_two_processes_give_the_result_of_one_at_the_same_global_batch(
    prepared: Path, tmp_path: Path, heads: str, negatives: str
) -> None:
    # Dropout stays on: its draws belong to the micro-batch, whoever works on it. Rows in 32 bits, as the order of sums
    # decides how those of 16 bits are rounded.
    knobs = {**KNOBS, "micro_batch_size": 8, "clip_norm": 1.0, "heads": heads, "lean_rows": "fp32"}
    knobs["negatives"] = negatives
    alone = run(prepared, tmp_path / "one" / "model", knobs)
    shared = run(prepared, tmp_path / "two" / "model", knobs, *TORCHRUN)
    assert set(alone) == set(shared)
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_two_processes_train_every_member_of_an_ensemble_together(prepared: Path, tmp_path: Path) -> None:
    knobs = {**KNOBS, "micro_batch_size": 8, "clip_norm": 1.0, "seeds": [4, 5]}
    alone = run(prepared, tmp_path / "one" / "model", knobs, member="member_1")
    shared = run(prepared, tmp_path / "two" / "model", knobs, *TORCHRUN, member="member_1")
    assert set(alone) == set(shared)
    for name, value in alone.items():
        torch.testing.assert_close(shared[name], value, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    assert list((tmp_path / "two" / "checkpoints").iterdir()) == []
