"""One optimiser step over a global batch, in micro-batches that the processes share."""

import logging
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.profiler import record_function

from cascadexml.rankers.cascade.network import CascadeXML, derive_loss_weights
from cascadexml.rankers.cascade.positives import LevelPositives
from cascadexml.training.distributed import Group
from cascadexml.training.optimisers import Optimizer
from cascadexml.training.precision import mixed_precision
from cascadexml.training.run import Run
from cascadexml.training.schedule import Schedule

MICRO_BATCHES_LIMIT = 1_000_003
BATCH, FORWARD, BACKWARD, UPDATE = PARTS = ("step: batch", "step: forward and loss", "step: backward", "step: update")
"""What a profile calls the parts of a step."""

log = logging.getLogger(__name__)


class Stepper:
    """The network with its optimiser.

    Args:
        run: the inputs of the training.
        network: on the device that is to do the work.
        positives: of the training documents.
        schedule: rates at each step.
        group: the processes that train together.
    """

    def __init__(
        self, run: Run, network: CascadeXML, positives: LevelPositives, schedule: Schedule, group: Group
    ) -> None:
        self.run, self.network, self.positives, self.schedule, self.group = run, network, positives, schedule, group
        self.device = next(network.parameters()).device
        self.optimizer = Optimizer(network, run.settings, schedule, group)
        self.loss_weights = torch.tensor(derive_loss_weights(run.settings, run.tree), device=self.device)
        self.autocast = mixed_precision(run.settings, self.device)

    def step(self, step: int, rows: npt.NDArray[np.int64]) -> Tensor:
        """Step number `step`, from 0, over the global batch `rows`; gives (R + 1,) of this process.

        These are the level losses, summed over its micro-batches, and the weighted total.
        """
        settings = self.run.settings
        self.network.train()
        self.optimizer.zero_grad()
        losses = torch.zeros(len(self.network.heads) + 1, device=self.device)
        size = settings.micro_batch_size
        micro_batches = math.ceil(rows.size / size)
        for first in range(0, micro_batches, self.group.size):
            micro = first + self.group.rank
            if micro >= micro_batches:
                self.network.attend()
                continue
            # Dropout depends on the step and the micro-batch alone: neither a resumed run nor the number of processes
            # changes it, and no generator state needs keeping.
            self._seed(step, micro)
            levels = self._losses(rows[micro * size : (micro + 1) * size]) / rows.size
            total = (levels * self.loss_weights).sum()
            with record_function(BACKWARD):
                total.backward()  # type: ignore[no-untyped-call]
            losses += torch.cat([levels.detach(), total.detach().unsqueeze(0)])
        # Lean heads round at random, and alike in all processes.
        self._seed(step, MICRO_BATCHES_LIMIT - 1)
        with record_function(UPDATE):
            self.optimizer.step(step)
        return losses

    def _seed(self, step: int, micro: int) -> None:
        torch.manual_seed((self.run.seed * MICRO_BATCHES_LIMIT + step) * MICRO_BATCHES_LIMIT % 2**62 + micro)

    def _losses(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """(R,) losses summed over a micro-batch."""
        with record_function(BATCH):
            batch = self.run.tokens["train"].batch(rows)
            texts = batch.input_ids.to(self.device), batch.attention_mask.to(self.device)
            positives = self.positives.batch(rows, self.device)
        with self.autocast, record_function(FORWARD):
            outputs = self.network(*texts, positives, all_labels=self.run.settings.negatives == "all")
            return self.network.losses(outputs).sum(0)
