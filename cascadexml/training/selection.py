"""Selection on dev: measure the weights now and then, keep the best, and stop where nothing is gained any more."""

import dataclasses
import logging
from pathlib import Path

import torch

from cascadexml.config.metric_names import metric_of
from cascadexml.errors import TrainingError
from cascadexml.metrics import document_metrics, inverse_propensities
from cascadexml.rankers.cascade.inference import attend_ranking, rank_tokens
from cascadexml.rankers.cascade.network import all_finite
from cascadexml.training.checkpoint import Position
from cascadexml.training.curves import GENTLER, Curves
from cascadexml.training.parts import Parts
from cascadexml.training.run import Run
from cascadexml.training.step import Stepper

log = logging.getLogger(__name__)


class Selection:
    """The metric that picks the weights, and where the best ones lie.

    Args:
        run: the inputs of the training.
        stepper: holds the network.
        curves: given what is measured.
        best: where the best network is kept, a model bundle.
        parts: where processes lay down what they alone hold of it.
    """

    def __init__(self, run: Run, stepper: Stepper, curves: Curves, best: Path, parts: Parts) -> None:
        self.run, self.stepper, self.curves, self.best, self.parts = run, stepper, curves, best, parts

    def evaluate(self, position: Position) -> Position:
        """Measure dev, keep the network if it is the best so far, and tell all whether to stop.

        Rank 0 decides, and what it does not tell of its position stays as it was in the others.

        Raises:
            TrainingError: a weight is not finite, in any process.
            PredictionError: out of memory while ranking dev.
        """
        group, settings, device = self.stepper.group, self.run.settings, self.stepper.device
        self._refuse_damaged(position.step)
        better = False
        if group.leads:
            figures = self._measure()
            value = figures[settings.select]
            self.curves.keep(position.step, {f"dev/{name}": figure for name, figure in figures.items()})
            log.info("step %d: dev %s", position.step, " ".join(f"{n} {v:.4f}" for n, v in figures.items()))
            better = position.best is None or value > position.best
            if better:
                position = dataclasses.replace(
                    position, best=value, best_step=position.step, evaluations_without_gain=0
                )
            else:
                stale = position.evaluations_without_gain + 1
                stopped = settings.patience is not None and stale >= settings.patience
                position = dataclasses.replace(position, evaluations_without_gain=stale, stopped=stopped)
        else:
            attend_ranking(self.stepper.network, self.run.tokens["dev"], settings.micro_batch_size)
        if group.lead_says(better, device):
            self.keep()
        return dataclasses.replace(position, stopped=group.lead_says(position.stopped, device))

    def keep(self) -> None:
        """Write the network as it is to `best`; every process must call it."""
        parts = self.parts.lay("model", self.stepper.network.part())
        if self.stepper.group.leads:
            self.stepper.network.save(self.best, parts)
            for part in parts:
                part.unlink()

    def _refuse_damaged(self, step: int) -> None:
        finite = all(map(all_finite, self.stepper.network.state_dict().values()))
        if self.stepper.group.sum(torch.tensor(float(not finite), device=self.stepper.device)).item():
            steps = self.stepper.schedule.steps
            raise TrainingError(f"a weight is no finite number after step {step} of {steps}: {GENTLER}")

    def _measure(self) -> dict[str, float]:
        run = self.run
        _, k = metric_of(run.settings.select)
        ks = sorted({1, 3, 5, k})
        with self.stepper.autocast:
            ranking = rank_tokens(self.stepper.network, run.tokens["dev"], ks[-1], run.settings.micro_batch_size)
        train, dev = run.corpus.splits["train"], run.corpus.splits["dev"]
        propensities = inverse_propensities(train.Y, run.propensity_a, run.propensity_b)
        return {name: float(v.mean()) for name, v in document_metrics(ranking, dev.Y, ks, propensities).items()}
