"""Where the time and the memory of a training step go: some steps under PyTorch's profiler, as a page of text."""

import math
import resource
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile

from cascadexml.data.tokens import length_bucketed
from cascadexml.errors import ConfigError
from cascadexml.progress import Progress, silent
from cascadexml.rankers.cascade.positives import LevelPositives
from cascadexml.training.distributed import Group
from cascadexml.training.fit import device_of
from cascadexml.training.run import Run
from cascadexml.training.schedule import Schedule
from cascadexml.training.start import build_network
from cascadexml.training.step import PARTS, Stepper

WARM_UP = 2
"""Steps before the measured ones: caches, and the optimiser's state."""
ROWS = 20
"""Operations told."""


def profile_steps(run: Run, steps: int, progress: Progress = silent) -> str:
    """Take some steps with rows at random; nothing of what is learnt is kept.

    Args:
        run: the inputs of the training.
        steps: how many are measured, at least 1.
        progress: told of every step.

    Returns:
        A report: milliseconds a step of each of its parts, the peak of memory, and the operations that take longest.

    Raises:
        ConfigError: `steps` is below 1, or train has too few documents for so many.
        EncoderError: the encoder cannot be found or used.
        PredictionError: the device is not there.
    """
    batches_per_epoch = math.ceil(len(run.tokens["train"]) / run.settings.batch_size)
    if not 1 <= steps <= batches_per_epoch - WARM_UP:
        raise ConfigError(
            f"{steps} steps cannot be profiled: expected 1 to {batches_per_epoch - WARM_UP}, which is an epoch without "
            f"its first {WARM_UP} steps."
        )
    device = device_of(run)
    group = Group()
    network = build_network(run, device, group)
    positives = LevelPositives(run.corpus.splits["train"].Y, run.tree)
    stepper = Stepper(run, network, positives, Schedule.of(run.settings, batches_per_epoch), group)
    batches = length_bucketed(run.tokens["train"].lengths, run.settings.batch_size, seed=run.seed, epoch=0)
    for step in range(WARM_UP):
        stepper.step(step, batches[step])
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    start = time.perf_counter()
    with profile(activities=activities, profile_memory=True) as profiler:
        for step in range(WARM_UP, WARM_UP + steps):
            stepper.step(step, batches[step])
            progress("profile", step - WARM_UP + 1, steps, {})
    seconds = time.perf_counter() - start
    averages = profiler.key_averages()
    parts = {event.key: event.cpu_time_total / 1000 / steps for event in averages if event.key in PARTS}
    lines = [f"{steps} steps of {run.settings.batch_size} documents on {device}, {1000 * seconds / steps:.0f} ms each"]
    lines += [f"  {name:24}{parts.get(name, 0.0):8.1f} ms" for name in PARTS]
    lines += [f"peak of memory: {_peak_bytes(device) / 2**30:.2f} GiB", ""]
    return "\n".join([*lines, averages.table(sort_by="self_cpu_time_total", row_limit=ROWS)])


def _peak_bytes(device: torch.device) -> int:
    """The most that this process has held, on the GPU where it trains there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # macOS gives bytes, Linux kibibytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
