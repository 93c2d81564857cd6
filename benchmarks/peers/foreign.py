"""Peers of foreign packages: each runs as a program of its own, in an environment with the versions that it needs."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import sparse

from benchmarks.peers.base import Answer, Clock, Task
from cascadexml.bundle import sha256_of
from cascadexml.data.sparse_files import read_npz
from cascadexml.errors import CascadeXMLError
from cascadexml.rankers.cascade.encoder import resolve_encoder
from cascadexml.ranking import Ranking

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".peers"
REQUIREMENTS = HERE.parent / "peers-requirements.txt"
PYTHON_VERSION = (3, 11)
"""For which all of these packages have wheels."""
LINES_SHOWN = 15


def answer(task: Task, settings: Mapping[str, Any]) -> Answer:
    """Run the program that `settings` names on what it is handed over, and rank by the scores that it leaves."""
    told = dict(settings) | {"K": task.K, "seed": task.seed, "held_out": task.held_out}
    if "encoder" in told:
        told["encoder"] = resolve_encoder(told["encoder"])
    out = task.scratch / str(len(list(task.scratch.iterdir())))
    clocks = run(settings["program"], hand_over(task), out, told)
    rankings = {name: Ranking.from_scores(read_npz(out / f"{name}.npz"), task.K) for name in task.held_out}
    return Answer(rankings, clocks.pop("training"), clocks).with_features(task.features)


def run(program: str, data: Path, out: Path, settings: Mapping[str, Any]) -> dict[str, Clock]:
    """Run one of the programs on a folder of data, and give what each of its blocks took; the rest it leaves in `out`.

    Raises:
        CascadeXMLError: it fails, or its environment cannot be made.
    """
    out.mkdir()
    _call([environment(), HERE / "programs" / f"{program}.py", data, out, json.dumps(settings)], program)
    times = json.loads((out / "times.json").read_text(encoding="utf-8"))
    return {name: Clock(**clock) for name, clock in times.items()}


def hand_over(task: Task) -> Path:
    """The folder with the records as the programs read them, written once a task."""
    folder = task.scratch / "data"
    if not folder.exists():
        folder.mkdir()
        sparse.save_npz(folder / "labels.npz", task.labels)
        for name, X in task.features.X.items():
            sparse.save_npz(folder / f"{name}.features.npz", X)
            (folder / f"{name}.texts.json").write_text(json.dumps(task.corpus.splits[name].texts), encoding="utf-8")
    return folder


def environment() -> Path:
    """The Python of the peers' environment, which is made where it is missing or its requirements have changed.

    Raises:
        CascadeXMLError: it cannot be made.
    """
    python, stamp, wanted = ENVIRONMENT / "bin" / "python", ENVIRONMENT / ".installed", sha256_of(REQUIREMENTS)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    uv = Path(sys.executable).with_name("uv")
    if not uv.is_file():
        raise CascadeXMLError(f"{uv} is missing, which makes the peers' environment: run make setup.")
    log.info("making %s for the foreign packages, some minutes", ENVIRONMENT)
    version = sys.executable if sys.version_info[:2] == PYTHON_VERSION else ".".join(map(str, PYTHON_VERSION))
    _call([uv, "venv", "--quiet", "--clear", "--seed", "--python", version, ENVIRONMENT], "making the environment")
    # As in make setup: pip first, whose configuration may know of a torch without CUDA.
    torch = [line for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if line.startswith("torch==")]
    _call([python, "-m", "pip", "install", "--quiet", "-c", REQUIREMENTS, *torch], "installing torch")
    _call([uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "-r", REQUIREMENTS], "installing")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def _call(command: Sequence[str | Path], what: str) -> None:
    alone = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(  # noqa: S603
        list(map(str, command)),
        env=alone | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        for line in done.stdout.splitlines()[-LINES_SHOWN:]:
            log.error("%s", line)
        raise CascadeXMLError(f"{what} for the peers ended with {done.returncode}: its last lines stand above.")
