"""The few collective operations that training needs; with one process each of them does nothing."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch.nn.utils import parameters_to_vector, vector_to_parameters


@dataclass(frozen=True)
class Group:
    """The processes that train together, started by torchrun; `size` 1 without it."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process evaluates, saves and reports."""
        return self.rank == 0

    def sum_gradients(self, tensors: Sequence[Tensor]) -> None:
        """Add up every process's gradients of trained tensors, in one message; a missing one counts as zero."""
        if self.size == 1:
            return
        parameters = [tensor for tensor in tensors if tensor.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = parameters_to_vector(gradients)
        distributed.all_reduce(flat)
        vector_to_parameters(flat, gradients)

    def gather(self, value: Tensor) -> Tensor:
        """Every process's tensor, one below the other by rank; they may differ in their first dimension."""
        return torch.cat(self.gather_parts(value))

    def gather_parts(self, value: Tensor) -> list[Tensor]:
        """Every process's tensor, by rank; they may differ in their first dimension."""
        if self.size == 1:
            return [value]
        own = torch.tensor([value.shape[0]], device=value.device)
        sizes = [torch.zeros_like(own) for _ in range(self.size)]
        distributed.all_gather(sizes, own)
        counts = [int(size) for size in sizes]
        if not any(counts):
            return [value] * self.size
        padded = value.new_zeros(max(counts), *value.shape[1:])
        padded[: value.shape[0]] = value
        parts = [torch.zeros_like(padded) for _ in range(self.size)]
        distributed.all_gather(parts, padded)
        return [part[:count] for part, count in zip(parts, counts, strict=True)]

    def sum(self, value: Tensor) -> Tensor:
        """Add up a tensor over the processes."""
        if self.size > 1:
            distributed.all_reduce(value)
        return value

    def lead_says(self, value: bool, device: torch.device) -> bool:
        """What rank 0 holds for `value`, on every process."""
        if self.size == 1:
            return value
        flag = torch.tensor([int(value)], device=device)
        distributed.broadcast(flag, src=0)
        return bool(flag.item())

    def meet(self, device: torch.device) -> None:
        """Wait until every process is here."""
        self.sum(torch.zeros(1, device=device)).tolist()

    def copy_from_lead(self, tensors: Sequence[Tensor]) -> None:
        """Give every process rank 0's values, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.detach(), src=0)


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """Join the processes that torchrun started, gloo on CPU and NCCL on CUDA; leave them at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or distributed.is_initialized():
        yield Group(int(os.environ.get("RANK", "0")), size)
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
