"""Where torch computes: choosing a device, and telling a refusal of memory from other errors."""

import logging
from typing import TYPE_CHECKING

from cascadexml.errors import PredictionError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


def pick_device(name: str = "auto") -> "torch.device":
    """The device called `name`; "auto" takes CUDA, else the CPU, and logs which.

    Apple's "mps" is taken only by name: nobody has run this project on it.

    Raises:
        PredictionError: there is no such device here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        log.info("device: %s", name)
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise PredictionError(f"device {name!r} is not on this machine: use cpu or auto.") from None
    return device


def multiplies_bf16(device: "torch.device") -> bool:
    """Whether bf16 is faster there than float32: on a GPU that has it, and on a CPU that multiplies in it."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # Without such instructions a CPU emulates bf16, which costs more than float32.
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch or Python refused memory; the CPU's allocator says so by a plain RuntimeError."""
    import torch

    said = str(error)
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "allocate memory" in said or "not enough memory" in said
