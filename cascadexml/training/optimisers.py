"""Parameter groups and the three-phase schedule."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from cascadexml.config import TrainSettings
from cascadexml.rankers.cascade.network import CascadeXML

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


def build_optimizer(model: CascadeXML, settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW with four groups: encoder, and what no pre-training has seen; each with weight decay on matrices only.

    Frozen parameters are left out. Heads say themselves which of their parameters decay.
    """
    encoder, scratch = _by_decay(model.encoder), _by_decay(model.joins)
    for head in model.heads:
        for members, more in zip(scratch, head.decay_groups(), strict=True):
            members.extend(more)
    groups = []
    for (decayed, others), lr, decay in (
        (encoder, settings.encoder_lr, settings.encoder_weight_decay),
        (scratch, settings.head_lr, settings.head_weight_decay),
    ):
        for members, weight_decay in ((decayed, decay), (others, 0.0)):
            if members:
                groups.append({"params": members, "lr": lr, "peak_lr": lr, "weight_decay": weight_decay})
    return torch.optim.AdamW(groups, lr=settings.encoder_lr, betas=(0.9, BETA2), fused=True)


def _by_decay(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trained parameters that are matrices, and the biases and norms."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
