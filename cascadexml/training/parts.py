"""Where the processes that share a network's heads lay down what each holds alone, for the first to write all of it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from cascadexml.training.distributed import Group


class Parts:
    """A folder that all processes of a training reach.

    Args:
        folder: made when it is needed; what an earlier process that was killed left there is replaced.
        group: the processes.
        device: where they compute.
    """

    def __init__(self, folder: Path, group: Group, device: torch.device) -> None:
        self.folder, self.group, self.device = folder, group, device

    def lay(self, name: str, tensors: Mapping[str, Tensor]) -> list[Path]:
        """Write what this process holds alone; give the others' files, by rank from 1, once all of them are written.

        Every process must call it. Without tensors nothing is shared, and there are no files.
        """
        if not tensors:
            return []
        files = [self.folder / part_name(name, rank) for rank in range(1, self.group.size)]
        if not self.group.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
            kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            save_file(kept, files[self.group.rank - 1])
        self.group.meet(self.device)
        return files


def part_name(name: str, rank: int) -> str:
    """What the file of a process's part is called."""
    return f"{name}_{rank}.safetensors"
