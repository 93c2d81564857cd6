"""A lean head whose rows lie in several processes: each has those of a range of parents, and no row leaves its process.

What goes round is what a batch has: vectors, shortlists, scores, residuals. A process scores the children of those
shortlisted parents that are its own, for the documents of all processes, and the scores come together in the process
that a document belongs to. There the loss and the next shortlist are made as ever, so that nobody above a head sees the
difference. On the way back the residuals go round, each process makes the gradient of its own rows from them, and the
vectors' gradients are added up. Tensors of a step are those of all processes' micro-batches, whoever has none.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from cascadexml.rankers.cascade.lean_head import FINENESS, LeanHead


class Peers(Protocol):
    """The processes that share a head. All of them must make the same calls in the same order."""

    @property
    def rank(self) -> int:
        """Which of them this is, from 0."""

    @property
    def size(self) -> int:
        """How many they are."""

    def gather_parts(self, value: Tensor) -> list[Tensor]:
        """Every process's tensor, by rank; they may differ in their first dimension."""

    def sum(self, value: Tensor) -> Tensor:
        """Add up a tensor over the processes, in place."""


class ShardedHead(LeanHead):
    """This process's share of a lean head.

    Args:
        children: (P,) of all parents, as of `Head`; P is at least the number of processes.
        d: as of `Head`.
        dropout: rate on the vectors in training.
        dtype: as of `LeanHead`.
        peers: the processes that share the head.
        fineness: as of `LeanHead`.
    """

    def __init__(
        self,
        children: Tensor,
        d: int,
        dropout: float,
        dtype: torch.dtype,
        peers: Peers,
        fineness: float | None = FINENESS,
    ) -> None:
        P, m = children.numel(), int(children.max())
        first, last = (P * rank // peers.size for rank in (peers.rank, peers.rank + 1))
        super().__init__(children, d, dropout, dtype, fineness, range(first * m, last * m))
        self.peers = peers

    @property
    def shared(self) -> bool:
        """As of `Head`."""
        return True

    @property
    def held(self) -> Tensor:
        """As of `Head`."""
        return torch.arange(self.places.start, self.places.stop, device=self.device)

    def holds(self, slots: Tensor) -> Tensor:
        """As of `Head`."""
        return (slots >= self.places.start) & (slots < self.places.stop)

    def total(self, values: Tensor) -> Tensor:
        """As of `Head`."""
        return self.peers.sum(values)

    def part(self) -> Mapping[str, Tensor]:
        """As of `Head`."""
        return {"weight": self.weight, "bias": self.bias}

    def replicated(self) -> Sequence[Tensor]:
        """As of `Head`: the scale, the same function of the steps in every process, is all."""
        return [self.scale]

    def score(self, h: Tensor, parents: Tensor | None) -> Tensor:
        """As of `LeanHead`, for this process's documents; every process must call it, with B = 0 where it has none.

        Args:
            h: (B, d).
            parents: (B, K), K the same for all documents of all processes.

        Raises:
            ValueError: `parents` is None; only a head with a single parent is scored so, and none such is shared.
        """
        if parents is None:
            raise ValueError("a head that processes share scores children of a shortlist, and none was given")
        everyone, before = self._together(h)
        listed = torch.cat(self.peers.gather_parts(parents.flatten())).view(everyone.shape[0], -1)
        mine = self.holds(listed * self.m)
        scores = torch.zeros(*listed.shape, self.m, device=h.device)
        scores[mine] = self._score_children(everyone, listed[mine], mine.sum(1).tolist())
        # Each number has one process that gives it; the others give zero, so the sum is exact.
        self.peers.sum(scores)
        return scores[before : before + h.shape[0]].reshape(h.shape[0], parents.shape[1] * self.m)

    def keep(self, h: Tensor, parents: Tensor | None, residuals: Tensor) -> Tensor:
        """As of `LeanHead`: residuals of this process's documents, rows of this process's slots."""
        documents, slots, values = self._thinned(parents, residuals)
        everyone, before = self._together(h)
        pairs = torch.cat(self.peers.gather_parts(torch.stack([documents + before, slots], dim=1)))
        values = torch.cat(self.peers.gather_parts(values))
        mine = self.holds(pairs[:, 1])
        back = self.peers.sum(self._teach(everyone, pairs[mine, 0], pairs[mine, 1], values[mine]))
        return back[before : before + h.shape[0]]

    def _together(self, h: Tensor) -> tuple[Tensor, int]:
        """The vectors of all processes by rank, and how many stand before this one's."""
        parts = self.peers.gather_parts(h)
        return torch.cat(parts), sum(part.shape[0] for part in parts[: self.peers.rank])

    def loss_over_all(self, h: Tensor, documents: Tensor, positives: Tensor) -> Tensor:
        """As of `Head`, but not offered here.

        Raises:
            ValueError: always; settings that lead here are refused (`TrainSettings.problems`).
        """
        raise ValueError("a head that processes share learns from shortlists")

    def gather(self, together: Callable[[Tensor], Tensor]) -> None:
        """As of `Head`: what waits went round in the backward pass."""

    def gradient_square(self) -> Tensor:
        """As of `LeanHead`, over the rows of all processes."""
        return self.peers.sum(super().gradient_square())

    @torch.no_grad()
    def add_to_rows(self, slots: Tensor, vectors: Tensor) -> None:
        """As of `Head`."""
        mine = self.holds(slots)
        super().add_to_rows(slots[mine], vectors[mine])

    @torch.no_grad()
    def set_rows(self, slots: Tensor, rows: Tensor, biases: Tensor) -> None:
        """As of `Head`."""
        mine = self.holds(slots)
        super().set_rows(slots[mine], rows[mine], biases[mine])
