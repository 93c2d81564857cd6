"""What a training says while it runs: losses, rates, throughput and dev's metrics."""

import math
import resource
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cascadexml.config import TrainSettings
from cascadexml.errors import TrainingError
from cascadexml.progress import Progress
from cascadexml.training.distributed import Group
from cascadexml.training.schedule import Schedule

LOG_EVERY = 10
GENTLER = "lower train.encoder_lr and train.head_lr, set train.clip_norm, or set train.precision to fp32."

Record = Callable[[int, Mapping[str, float]], None]
"""Called with (step, figures) for whoever keeps curves, such as DVCLive."""


class Curves:
    """The figures of a run so far, kept and told by rank 0 alone; the losses between two reports are summed here.

    Args:
        settings: for the peak learning rates.
        schedule: of the run.
        group: the processes that train together.
        progress: shown each report.
        record: told all that is kept.
    """

    def __init__(
        self, settings: TrainSettings, schedule: Schedule, group: Group, progress: Progress, record: Record
    ) -> None:
        self.settings, self.schedule, self.group = settings, schedule, group
        self.progress, self.tell = progress, record
        self.kept: list[tuple[int, Mapping[str, float]]] = []
        self._losses: Tensor | None = None
        self._documents = 0
        self._reported = time.monotonic()

    def keep(self, step: int, figures: Mapping[str, float]) -> None:
        """Keep and tell figures of the moment when `step` steps are done."""
        if self.group.leads:
            self.kept.append((step, figures))
            self.tell(step, figures)

    def start_clock(self) -> None:
        """Count throughput from now on."""
        self._reported = time.monotonic()

    def add(self, step: int, losses: Tensor, documents: int) -> bool:
        """Take in step number `step` (from 1); report and give True at every tenth one and at the last.

        Args:
            step: how many steps are done with this one.
            losses: (R + 1,) this process's level losses and the total.
            documents: of the global batch.

        Raises:
            TrainingError: the loss is not finite.
        """
        self._losses = losses if self._losses is None else self._losses + losses
        self._documents += documents
        if step % LOG_EVERY and step != self.schedule.steps:
            return False
        now = time.monotonic()
        self._report(step, self._losses, self._documents / max(now - self._reported, 1e-9))
        self._losses, self._documents, self._reported = None, 0, now
        return True

    def _report(self, step: int, losses: Tensor, speed: float) -> None:
        *levels, total = (self.group.sum(losses) / (((step - 1) % LOG_EVERY) + 1)).tolist()
        if not math.isfinite(total):
            raise TrainingError(
                f"the loss became {total} between steps {max(0, step - LOG_EVERY)} and {step} of "
                f"{self.schedule.steps}: {GENTLER}"
            )
        factor = self.schedule.factor(step - 1)
        rate = self.settings.encoder_lr * factor
        self.progress("train", step, self.schedule.steps, {"loss": total, "lr": rate, "docs/s": speed})
        self.keep(
            step,
            {
                "loss/total": total,
                **{f"loss/level_{r}": value for r, value in enumerate(levels)},
                "rate/encoder": rate,
                "rate/heads": self.settings.head_lr * factor,
                "rate/beta1": self.schedule.beta1(step - 1),
                "speed/documents_per_second": speed,
                "memory/peak_gib": peak_memory_gib(losses.device),
            },
        )


def peak_memory_gib(device: torch.device) -> float:
    """The most memory held so far, in GiB: of the GPU on CUDA, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
