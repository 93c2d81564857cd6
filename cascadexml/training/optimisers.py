"""Parameter groups of the optimiser."""

import torch
from torch import nn

from cascadexml.config import TrainSettings
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.training.schedule import BETA2


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
