"""fit(): from a run's inputs to the ranker that is best on dev, over any number of processes, kills and resumptions."""

import dataclasses
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cascadexml.bundle import beside
from cascadexml.data.tokens import length_bucketed
from cascadexml.device import is_out_of_memory, pick_device
from cascadexml.errors import TrainingError
from cascadexml.progress import Progress, silent
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.rankers.cascade.positives import LevelPositives
from cascadexml.rankers.cascade.ranker import CascadeRanker
from cascadexml.training.checkpoint import Position, load_checkpoint, save_checkpoint
from cascadexml.training.curves import Curves, Record
from cascadexml.training.distributed import Group, joined
from cascadexml.training.parts import Parts
from cascadexml.training.run import Run
from cascadexml.training.schedule import Schedule
from cascadexml.training.selection import Selection
from cascadexml.training.start import build_network, start_weights, tokenizer_of
from cascadexml.training.step import Stepper

CHECKPOINT_SHARE = 0.03
"""Of the time that checkpoints may take: the last one's cost decides how far off the next one is at least."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitResult:
    """What a run ended with: steps done, the selected step, and the selection metric there (None without dev)."""

    steps: int
    best_step: int
    best: float | None


def fit(
    run: Run,
    *,
    out: Path,
    checkpoints: Path,
    progress: Progress = silent,
    record: Record = lambda step, figures: None,
    curves: Path | None = None,
) -> FitResult:
    """Fit the cascade and write the ranker that is best on dev to `out`.

    Killed at any moment, the next call with the same arguments goes on from the last checkpoint and ends with the same
    weights, bit for bit on a CPU. With several processes (torchrun) each works on its share of every global batch's
    micro-batches, so the result is that of one process up to the order of floating-point sums; with `train.sharded`
    each also holds only its share of the rows of lean classifiers.

    Args:
        run: data, settings and seed.
        out: folder of the trained ranker, a bundle that `load_ranker` reads.
        checkpoints: folder under which this run keeps its state, in a folder named by its fingerprint.
        progress: told of every step.
        record: given losses, rates, throughput and dev metrics; after a resume all of them from the start again.
        curves: file for all that `record` was given, as JSON, complete before `out` is there; None writes none.

    Raises:
        TrainingError: out of memory, a loss that is not finite, or a checkpoint of another run or of another number of
            processes that share classifiers.
        ConfigError: settings that do not fit the encoder, the tokens, the tree, the base or this machine.
        EncoderError: the encoder cannot be found or used.
        FormatError: the base or a checkpoint is truncated, tampered with, of another kind or version.
    """
    device = device_of(run)
    with joined(device) as group:
        trainer = Trainer(run, device, group, checkpoints, progress if group.leads else silent, record)
        return trainer.train(out, curves)


def device_of(run: Run) -> torch.device:
    """Where this process trains; on CUDA the GPU that torchrun gave it, which is made ready.

    Raises:
        PredictionError: the device of the settings is not there.
    """
    device = pick_device(run.settings.device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    return device


def state_of(run: Run, checkpoints: Path) -> Path:
    """The folder below `checkpoints` in which a run keeps its state until it has written its ranker."""
    return checkpoints / run.fingerprint[:16]


class Trainer:
    """A run under way; `fit` is its public face."""

    def __init__(
        self, run: Run, device: torch.device, group: Group, checkpoints: Path, progress: Progress, record: Record
    ) -> None:
        self.run, self.group, self.progress = run, group, progress
        self.folder = state_of(run, checkpoints)
        self.batches_per_epoch = math.ceil(len(run.tokens["train"]) / run.settings.batch_size)
        self.schedule = Schedule.of(run.settings, self.batches_per_epoch)
        self.tokenizer = tokenizer_of(run)
        self.network = build_network(run, device, group)
        self.positives = LevelPositives(run.corpus.splits["train"].Y, run.tree)
        self.stepper = Stepper(run, self.network, self.positives, self.schedule, group)
        self.curves = Curves(run.settings, self.schedule, group, progress, record)
        self.parts = Parts(self.folder / "parts", group, device)
        self.selection = Selection(run, self.stepper, self.curves, self.folder / "best", self.parts)

    def train(self, out: Path, curves: Path | None = None) -> FitResult:
        """Train to the end, write what was recorded to `curves` and the selected ranker to `out`."""
        with _out_of_memory_said(self.stepper.device, self.run.settings.micro_batch_size):
            position = self._start()
            if self.run.settings.compile:
                self.network.encoder.compile(dynamic=True)
            position = self._go_on(position)
        if self.network.shared and not self.run.selects:
            self.selection.keep()
        if self.group.leads:
            if curves is not None:
                with beside(curves) as new:
                    new.write_text(json.dumps(self.curves.kept), encoding="utf-8")
            best, network = self.selection.best, self.network
            # Of heads that processes share this one holds a part; what was kept is whole, and stays in its file.
            if best.exists() and (network.shared or position.best_step != position.step):
                network = CascadeXML.load(best)
            CascadeRanker(network, self.tokenizer, self.run.tokens["train"].max_length).save(out)
            shutil.rmtree(self.folder, ignore_errors=True)
        return FitResult(position.step, position.best_step, position.best)

    def _start(self) -> Position:
        """Where the last checkpoint stands, or the first weights."""
        last = self.folder / "last"
        if last.exists():
            position, curves = load_checkpoint(
                last, self.run.fingerprint, self.network, self.stepper.optimizer, self.group
            )
            for step, figures in curves:
                self.curves.keep(step, figures)
            log.info("resuming at step %d of %d from %s", position.step, self.schedule.steps, last)
            return position
        with self.stepper.autocast:
            start_weights(self.run, self.network, self.positives, self.group, self.progress)
        if self.schedule.steps == 0 and self.run.selects:
            return self.selection.evaluate(Position())
        return Position()

    def _go_on(self, position: Position) -> Position:
        steps, settings = self.schedule.steps, self.run.settings
        interval = max(1, math.ceil(self.batches_per_epoch / settings.evaluations_per_epoch))
        batches = self._batches(position.step)
        saved, cost = time.monotonic(), 0.0

        def due() -> bool:
            apart = 60 * settings.checkpoint_minutes
            return time.monotonic() - saved >= (max(apart, cost / CHECKPOINT_SHARE) if apart else 0.0)

        self.curves.start_clock()
        while position.step < steps and not position.stopped:
            rows = next(batches)
            losses = self.stepper.step(position.step, rows)
            position = dataclasses.replace(position, step=position.step + 1)
            reported = self.curves.add(position.step, losses, rows.size)
            if self.run.selects and (position.step % interval == 0 or position.step == steps):
                position = self.selection.evaluate(position)
            # Only where the losses have just been reported, so that no sum under way needs keeping.
            if reported and position.step < steps and self.group.lead_says(due(), self.stepper.device):
                started = time.monotonic()
                self._save(position)
                cost, saved = time.monotonic() - started, time.monotonic()
        return position

    def _save(self, position: Position) -> None:
        optimizer = self.stepper.optimizer
        parts = [*self.parts.lay("model", self.network.part()), *self.parts.lay("optimizer", optimizer.part())]
        if self.group.leads:
            last, kept = self.folder / "last", self.curves.kept
            save_checkpoint(last, self.run.fingerprint, position, self.network, optimizer, kept, parts)

    def _batches(self, step: int) -> Iterator[npt.NDArray[np.int64]]:
        """The global batches from step number `step` on, epoch after epoch."""
        lengths = self.run.tokens["train"].lengths
        epoch, place = divmod(step, self.batches_per_epoch)
        while True:
            yield from length_bucketed(lengths, self.run.settings.batch_size, seed=self.run.seed, epoch=epoch)[place:]
            epoch, place = epoch + 1, 0


@contextmanager
def _out_of_memory_said(device: torch.device, micro_batch_size: int) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"out of memory on {device} with micro-batches of {micro_batch_size} texts: lower "
            "train.micro_batch_size (the result stays the same), tokenize.max_length or train.shortlist."
        ) from None
