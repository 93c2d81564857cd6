"""In what precision a training computes; weights and optimiser are in float32 always."""

import logging

import torch

from cascadexml.config import TrainSettings
from cascadexml.device import multiplies_bf16

log = logging.getLogger(__name__)


def in_bf16(settings: TrainSettings, device: torch.device) -> bool:
    """Whether the network computes in bf16: where the settings ask for it, or leave it open and it is faster there."""
    return settings.precision == "bf16" or (settings.precision == "auto" and multiplies_bf16(device))


def mixed_precision(settings: TrainSettings, device: torch.device) -> torch.autocast:
    """The context in which the network computes."""
    bf16 = in_bf16(settings, device)
    log.info("precision: %s", "bf16" if bf16 else "fp32")
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)
