"""The three-phase schedule of learning rates and beta1, and how many steps a training takes."""

import math
from dataclasses import dataclass

import torch

from cascadexml.config import TrainSettings

BETA2 = 0.999


@dataclass(frozen=True)
class Schedule:
    """Learning-rate factor and beta1 as pure functions of the step, so that a resumed run needs no state of theirs.

    The rate rises linearly over `warmup` steps, stays flat, and falls as a cosine to zero over the last `cosine` steps;
    beta1 goes the other way, 0.95 → 0.85 → 0.95 (CascadeXML's code of practice, after one-cycle training).
    """

    steps: int
    warmup: int
    cosine: int
    cycle_beta1: bool = True

    @classmethod
    def of(cls, settings: TrainSettings, batches_per_epoch: int) -> "Schedule":
        """The settings' epochs as steps; the fall is no longer than the whole run."""
        steps = round(settings.epochs * batches_per_epoch)
        return cls(
            steps,
            round(settings.warmup_epochs * batches_per_epoch),
            min(steps, round(settings.cosine_epochs * batches_per_epoch)),
            settings.cycle_beta1,
        )

    def factor(self, step: int) -> float:
        """Share of the peak learning rate at `step`, counted from 0; above 0 at every step."""
        rise = (step + 1) / self.warmup if step < self.warmup else 1.0
        into = step - (self.steps - self.cosine)
        fall = 0.5 * (1.0 + math.cos(math.pi * (into + 0.5) / self.cosine)) if into >= 0 and self.cosine else 1.0
        return min(rise, fall)

    def beta1(self, step: int) -> float:
        """First-moment decay at `step`."""
        return 0.95 - 0.10 * self.factor(step) if self.cycle_beta1 else 0.9

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Set every group's rate and betas for `step`."""
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * self.factor(step)
            group["betas"] = (self.beta1(step), BETA2)
