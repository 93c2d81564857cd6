"""How weights learn: parameters by AdamW, the rows of some heads by their own updates; clipped together."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cascadexml.config import TrainSettings
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.training.distributed import Group
from cascadexml.training.schedule import BETA2, Schedule


class Optimizer:
    """All that learns in a network, as one optimiser.

    Args:
        network: what learns; frozen parameters are left out.
        settings: rates, weight decay, clipping.
        schedule: rates at each step.
        group: the processes that train together.
    """

    def __init__(self, network: CascadeXML, settings: TrainSettings, schedule: Schedule, group: Group) -> None:
        self.network, self.settings, self.schedule, self.group = network, settings, schedule, group
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.adamw = build_adamw(network, settings)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.adamw.zero_grad()
        for head in self.network.heads:
            head.forget()

    def step(self, step: int) -> None:
        """Learn from the gradients of step number `step`, from 0: the processes' together, clipped together."""
        self.schedule.apply(self.adamw, step)
        self.group.sum_gradients(self.network.replicated)
        for head in self.network.heads:
            head.gather(self.group.gather)
        factor = self._clip()
        self.adamw.step()
        rate = self.settings.lean_lr * self.schedule.factor(step)
        for head in self.network.heads:
            head.update(rate, self.settings.head_weight_decay, factor)

    def _clip(self) -> float | Tensor:
        """Clip AdamW's gradients, and give the factor for those that wait in heads."""
        most = self.settings.clip_norm
        if most is None:
            return 1.0
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm([*gradients, *(n for head in self.network.heads for n in head.gradient_norms())])
        nn.utils.clip_grads_with_norm_(self.parameters, most, norm)
        # As clip_grads_with_norm_ does it.
        return (most / (norm + 1e-6)).clamp(max=1.0)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next process needs besides the network's weights."""
        state = {
            f"{index}.{name}": value
            for index, moments in self.adamw.state_dict()["state"].items()
            for name, value in moments.items()
        }
        return state | self._of_heads()

    def part(self) -> dict[str, Tensor]:
        """What of `state` lies in this process alone: that of the heads that processes share."""
        return self._of_heads(shared_alone=True)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave.

        Raises:
            KeyError, ValueError, RuntimeError: it is that of another network.
        """
        moments: dict[int, dict[str, Tensor]] = {}
        of_heads = self._of_heads()
        for name, value in state.items():
            if name in of_heads:
                of_heads.pop(name).copy_(value)
            else:
                index, key = name.split(".", 1)
                moments.setdefault(int(index), {})[key] = value
        if of_heads:
            raise KeyError(next(iter(of_heads)))
        self.adamw.load_state_dict({"state": moments, "param_groups": self.adamw.state_dict()["param_groups"]})

    def _of_heads(self, *, shared_alone: bool = False) -> dict[str, Tensor]:
        heads = [(r, head) for r, head in enumerate(self.network.heads) if head.shared or not shared_alone]
        return {f"head_{r}.{name}": value for r, head in heads for name, value in head.training_state().items()}


def build_adamw(model: CascadeXML, settings: TrainSettings) -> torch.optim.AdamW:
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
