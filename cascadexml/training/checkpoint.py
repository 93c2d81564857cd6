"""Training state on disk: everything that the next process needs to go on as if nothing had happened.

Learning rates, beta1, data order and dropout are functions of the seed and the step (see `optim` and `training`), so
the weights, the optimiser's moments and the step are all there is to keep.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from cascadexml.bundle import Format
from cascadexml.errors import FormatError, TrainingError
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.training.distributed import Group
from cascadexml.training.optimisers import Optimizer
from cascadexml.training.parts import part_name

FORMAT = Format("cascadexml.checkpoint", 1)


@dataclass(frozen=True)
class Position:
    """Where a run stands: optimiser steps done, and what selection on dev has seen."""

    step: int = 0
    best: float | None = None
    best_step: int = 0
    evaluations_without_gain: int = 0
    stopped: bool = False


Curves = Sequence[tuple[int, Mapping[str, float]]]
"""What a run has recorded so far: (step, figures) in order."""


def save_checkpoint(
    path: Path,
    run: str,
    position: Position,
    model: nn.Module,
    optimizer: Optimizer,
    curves: Curves,
    parts: Sequence[Path] = (),
) -> None:
    """Write the state of run `run` (its fingerprint) to `path`, replacing an older one.

    Args:
        path: where it will lie.
        run: the run's fingerprint.
        position: how far it is.
        model: the first process's.
        optimizer: the first process's.
        curves: recorded so far.
        parts: files of what other processes hold alone (`Parts.lay`), moved into the checkpoint.
    """
    moments = {name: value.detach().cpu().contiguous() for name, value in optimizer.state().items()}
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with FORMAT.write(path, {"run": run, "position": dataclasses.asdict(position)}) as folder:
        save_file(weights, folder / "model.safetensors")
        save_file(moments, folder / "optimizer.safetensors")
        (folder / "curves.json").write_text(json.dumps(curves), encoding="utf-8")
        for part in parts:
            part.replace(folder / part.name)


def load_checkpoint(
    path: Path, run: str, model: CascadeXML, optimizer: Optimizer, group: Group
) -> tuple[Position, list[tuple[int, Mapping[str, float]]]]:
    """Put the state at `path` into `model` and `optimizer`; give the position and the curves so far.

    Where the processes of `group` share heads, each takes its own part.

    Raises:
        FormatError: the checkpoint is truncated, tampered with, of another kind or version.
        TrainingError: it belongs to a run with other settings or data, or to another number of processes.
    """
    bundle = FORMAT.read(path)
    meta = bundle.meta
    if meta.get("run") != run:
        raise TrainingError(
            f"the checkpoint at {path} belongs to a run with other settings or data ({str(meta.get('run'))[:12]}, "
            f"this run is {run[:12]}): remove it to start over, or restore the settings that it was made with."
        )
    written, shares = sum(name.startswith("model") for name in bundle.files), group.size if model.shared else 1
    if written != shares:
        raise TrainingError(
            f"the checkpoint at {path} holds the classifiers in {written} parts, one a process, and this run would "
            f"have {shares}: start as many processes as before, or remove it to start over."
        )
    try:
        weights, state = load_file(path / "model.safetensors"), load_file(path / "optimizer.safetensors")
        if model.shared and not group.leads:
            weights |= load_file(path / part_name("model", group.rank))
            state |= load_file(path / part_name("optimizer", group.rank))
        model.load_state_dict(weights)
        optimizer.load_state(state)
        curves = [(step, figures) for step, figures in json.loads((path / "curves.json").read_text(encoding="utf-8"))]
        return Position(**meta["position"]), curves
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FormatError(f"the checkpoint at {path} does not fit the model ({reason}): remove it.") from None
