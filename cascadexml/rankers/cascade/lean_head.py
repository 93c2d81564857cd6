"""A classifier of many nodes, lean in memory and in what a step moves.

Rows are kept in 16 bits and learn by row-wise Adagrad without momentum, which keeps one number a row. A step reads only
the rows of the shortlists and writes only those that it has something to teach; no tensor of (documents, slots, d), no
gradient buffer and no optimiser state of the matrix's size ever exists. Sources: Gupta et al., ELMO (2025), on 16-bit
classifiers with stochastic rounding and fused updates; Jain et al., Renee (2023), on training without momentum.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cascadexml.rankers.cascade.heads import MatrixHead, block_targets, blocks, slot_losses

FINENESS = 64.0
"""A residual this many times smaller than its document's largest is thinned out."""
GATHERED = 2**20
"""Elements of rows that are gathered at a time: what a core's cache holds in float32."""
UPDATED = 2**11
"""Rows that are updated at a time."""
NOISE = 2**20
"""Random 16-bit numbers that all rows of a step are rounded with: rows share them, elements of a row do not."""
SELDOM = -6.0
EPSILON = 1e-10
HALF = 0.5


@dataclass(frozen=True)
class Residual:
    """What a micro-batch of B documents has to teach: n pairs of document and slot, those of a slot by rising document.

    Attributes:
        h: (B, d) float32 vectors that were scored.
        documents: (n,) int64.
        slots: (n,) int64, counted from the first that the head holds.
        values: (n,) float32, the derivative of the loss by each pair's logit.
    """

    h: Tensor
    documents: Tensor
    slots: Tensor
    values: Tensor


class LeanHead(MatrixHead):
    """Rows scale · V in tree order, V (P·m, d) in `dtype`; trained by `update` and not by a gradient optimiser.

    Args:
        children: as of `Head`.
        d: as of `Head`.
        dropout: rate on the vectors in training.
        dtype: of the rows: bfloat16, written with stochastic rounding, or float32.
        fineness: F. Of a document's residuals r those below t = max |r| / F are kept with the chance |r| / t, and count
            as ±t then: the sum over slots stays right in expectation, and most slots need not be touched. None keeps
            all.
        held: the slots whose rows this head has; None: all of them.
    """

    scale: Tensor
    row_squares: Tensor
    bias_squares: Tensor

    def __init__(
        self,
        children: Tensor,
        d: int,
        dropout: float,
        dtype: torch.dtype = torch.bfloat16,
        fineness: float | None = FINENESS,
        held: range | None = None,
    ) -> None:
        super().__init__(children, d, dropout)
        self.fineness = fineness
        self.places = range(self.P * self.m) if held is None else held
        size = len(self.places)
        self.register_buffer("weight", torch.empty(size, d, dtype=dtype))
        self.register_buffer("bias", torch.zeros(size))
        # Weight decay shrinks all rows at once, touched or not, by this one number.
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("row_squares", torch.zeros(size), persistent=False)
        self.register_buffer("bias_squares", torch.zeros(size), persistent=False)
        self.pending: list[Residual] = []

    def forward(self, h: Tensor, parents: Tensor | None) -> tuple[Tensor, Tensor]:
        """As of `Head`. The scores' gradient reaches h; what it says of the rows waits for `update`."""
        h = self.dropout(h).float()
        if self.training and torch.is_grad_enabled() and not h.requires_grad:
            h = h.detach().requires_grad_()
        logits: Tensor = _Scores.apply(h, parents, self)  # type: ignore[no-untyped-call]
        if parents is None:
            return logits.masked_fill(~self.valid, -torch.inf), self.slots.expand(h.shape[0], -1)
        slots = self.children_of(parents)
        return logits.masked_fill(~self.valid[slots], -torch.inf), slots

    def score(self, h: Tensor, parents: Tensor | None) -> Tensor:
        """(B, K·m) logits of B vectors for the children of (B, K) parents or of all, few rows in float32 at a time."""
        if parents is None:
            return self._score_every_slot(h)
        B, K = parents.shape
        return self._score_children(h, parents.flatten(), [K] * B).view(B, K * self.m)

    def _score_children(self, h: Tensor, parents: Tensor, counts: Sequence[int]) -> Tensor:
        """(n, m) logits of the children of n held parents, of which counts[b] belong to the vector h[b], in order."""
        parents = parents - self.places.start // self.m
        rows = self.weight.view(-1, self.m * self.d)
        found = torch.empty(parents.numel(), self.m, device=h.device)
        size = max(1, min(max(counts, default=0), GATHERED // (self.m * self.d)))
        stored = torch.empty(size, self.m * self.d, dtype=self.weight.dtype, device=h.device)
        wide = torch.empty(size, self.m * self.d, device=h.device)
        with torch.autocast(h.device.type, enabled=False):
            end = 0
            for b, count in enumerate(counts):
                start, end = end, end + count
                for at in range(start, end, size):
                    chosen = parents[at : min(at + size, end)]
                    n = chosen.numel()
                    torch.index_select(rows, 0, chosen, out=stored[:n])
                    wide[:n].copy_(stored[:n])
                    torch.mv(wide[:n].view(-1, self.d), h[b], out=found[at : at + n].view(-1))
            return found.mul_(self.scale.float()).add_(self.bias.view(-1, self.m)[parents])

    def _score_every_slot(self, h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            parts = [h.float() @ part.float().T for part in torch.split(self.weight, UPDATED)]
        return torch.cat(parts, dim=1).mul_(self.scale.float()).add_(self.bias)

    def loss_over_all(self, h: Tensor, documents: Tensor, positives: Tensor) -> Tensor:
        """As of `Head`; what the gradient says of the rows waits for `update`, thinned out as ever."""
        losses: Tensor = _AllLosses.apply(self.dropout(h).float(), documents, positives, self)  # type: ignore[no-untyped-call]
        return losses

    def keep(self, h: Tensor, parents: Tensor | None, residuals: Tensor) -> Tensor:
        """Put by what residuals of the scored slots teach the rows; give (B, d), what they teach the vectors."""
        return self._teach(h, *self._thinned(parents, residuals))

    def _thinned(self, parents: Tensor | None, residuals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The documents (n,), slots (n,) and values (n,) of the (B, K·m) residuals that are kept."""
        documents, slots, values = _thinned(residuals, self.least(residuals.abs().amax(1)))
        if parents is not None:
            slots = parents[documents, slots // self.m] * self.m + slots % self.m
        return documents, slots, values

    def least(self, largest: Tensor) -> Tensor | None:
        """(B,) below which residuals are thinned out, from the (B,) largest ones of B documents; None: none are."""
        return None if self.fineness is None else largest / self.fineness

    def _teach(self, h: Tensor, documents: Tensor, slots: Tensor, values: Tensor) -> Tensor:
        """Put by the residuals of n pairs with held slots; give (B, d), what they teach the vectors h."""
        slots = slots - self.places.start
        self.pending.append(Residual(h, documents, slots, values))
        back = torch.zeros_like(h)
        for part in torch.split(torch.arange(slots.numel(), device=slots.device), max(1, GATHERED // self.d)):
            rows = self.weight[slots[part]].float()
            back.index_add_(0, documents[part], rows.mul_(values[part].unsqueeze(1)))
        return back.mul_(self.scale.float())

    def gather(self, together: Callable[[Tensor], Tensor]) -> None:
        """As of `Head`.

        Documents' vectors and residuals go round, not rows: the rows' gradients are made of them by each process.
        """
        own = self._all_pending()
        sizes = together(torch.tensor([[own.h.shape[0], own.slots.numel()]], device=self.device))
        starts = torch.repeat_interleave(sizes[:, 0].cumsum(0) - sizes[:, 0], sizes[:, 1])
        documents = together(own.documents) + starts
        self.pending = [Residual(together(own.h), documents, together(own.slots), together(own.values))]

    @torch.no_grad()
    def gradient_square(self) -> Tensor:
        """The squared length of the gradient that waits, over all rows and biases."""
        total = torch.zeros((), device=self.device)
        for _, rows, biases in self._gradients():
            total += rows.square().sum() + biases.square().sum()
        return total

    def gradient_norms(self) -> list[Tensor]:
        """As of `Head`."""
        return [self.gradient_square().sqrt()]

    @torch.no_grad()
    def update(self, rate: float, decay: float, factor: float | Tensor = 1.0) -> None:
        """As of `Head`: row-wise Adagrad, rounded at random to what rows are stored in."""
        self.scale.mul_(1 - rate * decay)
        if self.scale < HALF:
            # Exact in any binary format.
            self.weight.mul_(HALF)
            self.scale.div_(HALF)
        noise = _noise(self.weight)
        first = self.places.start
        for slots, rows, biases in self._gradients():
            rows, biases = rows * factor, biases * factor
            squares = self.row_squares[slots] + rows.square().mean(1)
            self.row_squares[slots] = squares
            steps = rows.mul_((rate / (squares.sqrt() + EPSILON) / self.scale.float()).unsqueeze(1))
            self.weight[slots] = _rounded(self.weight[slots].float().sub_(steps), slots + first, noise)
            squares = self.bias_squares[slots] + biases.square()
            self.bias_squares[slots] = squares
            self.bias[slots] -= rate * biases / (squares.sqrt() + EPSILON)
        self.forget()

    def forget(self) -> None:
        """As of `Head`."""
        self.pending = []

    def _gradients(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Some touched slots (u,) at a time, each once, with their rows' (u, d) and biases' (u,) gradients."""
        found = self._all_pending()
        slots, order = found.slots.sort(stable=True)
        documents, values = found.documents[order], found.values[order]
        # The column of ones gives the biases' gradients.
        h = functional.pad(found.h, (0, 1), value=1.0)
        touched, counts = torch.unique_consecutive(slots, return_counts=True)
        ends = counts.cumsum(0)
        # One read for all parts: on a GPU each waits for the work that is queued.
        bounds = [0, *ends[UPDATED - 1 : -1 : UPDATED].tolist(), slots.numel()]
        for start, (first, last) in zip(range(0, touched.numel(), UPDATED), itertools.pairwise(bounds), strict=False):
            part = slice(start, start + UPDATED)
            offsets = ends[part] - counts[part] - first
            gradients = functional.embedding_bag(
                documents[first:last], h, offsets, mode="sum", per_sample_weights=values[first:last]
            )
            yield touched[part], gradients[:, : self.d], gradients[:, self.d]

    def _all_pending(self) -> Residual:
        """What all micro-batches put by, as one."""
        pending = self.pending or [self._nothing()]
        before = [0, *itertools.accumulate(each.h.shape[0] for each in pending)]
        return Residual(
            torch.cat([each.h for each in pending]),
            torch.cat([each.documents + B for each, B in zip(pending, before, strict=False)]),
            torch.cat([each.slots for each in pending]),
            torch.cat([each.values for each in pending]),
        )

    def _nothing(self) -> Residual:
        none = torch.zeros(0, dtype=torch.long, device=self.device)
        return Residual(torch.zeros(0, self.d, device=self.device), none, none, none.float())

    def training_state(self) -> Mapping[str, Tensor]:
        """As of `Head`: Adagrad's sums."""
        return {"row_squares": self.row_squares, "bias_squares": self.bias_squares}

    @torch.no_grad()
    def score_all(self, h: Tensor) -> Tensor:
        """As of `Head`."""
        return self._score_every_slot(h)[:, self.valid[self.held]]

    @torch.no_grad()
    def start_at_random(self) -> None:
        """As of `Head`, but with biases that say that a node is seldom right: else every slot has much to learn."""
        bound = math.sqrt(6 / (self.P * self.m + self.d))
        size, before = self.P * self.m, self.places.start
        for start in range(0, size, UPDATED):
            # All are drawn, whichever are held: a row is the same however many processes share the head.
            drawn = torch.empty(min(UPDATED, size - start), self.d, device=self.device).uniform_(-bound, bound)
            first, last = (min(max(at, before), self.places.stop) for at in (start, start + len(drawn)))
            self.weight[first - before : last - before] = drawn[first - start : last - start]
        self.bias.fill_(SELDOM)

    @torch.no_grad()
    def add_to_rows(self, slots: Tensor, vectors: Tensor) -> None:
        """As of `Head`; sums of few vectors are rounded at random, so that those of many are right in expectation."""
        touched, places = torch.unique(slots, return_inverse=True)
        sums = torch.zeros(touched.numel(), self.d, device=self.device).index_add_(0, places, vectors.float())
        rows, biases = self.rows(touched)
        self.set_rows(touched, rows + sums, biases)

    @torch.no_grad()
    def rows(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Head`."""
        slots = slots - self.places.start
        return self.weight[slots].float().mul_(self.scale.float()), self.bias[slots]

    @torch.no_grad()
    def set_rows(self, slots: Tensor, rows: Tensor, biases: Tensor) -> None:
        """As of `Head`."""
        noise, first = _noise(self.weight), self.places.start
        for at, part in zip(blocks(slots), blocks(rows), strict=True):
            self.weight[at - first] = _rounded(part / self.scale.float(), at, noise)
        self.bias[slots - first] = biases

    def decay_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """As of `Head`: none, it updates itself."""
        return [], []

    def replicated(self) -> Sequence[Tensor]:
        """As of `Head`."""
        return [self.weight, self.bias, self.scale]


class _Scores(torch.autograd.Function):
    """Scores of a shortlist, whose gradient goes to the vectors, and by the head's own way to its rows."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, parents: Tensor | None, head: LeanHead) -> Tensor:
        ctx.save_for_backward(h)
        ctx.parents, ctx.head = parents, head
        return head.score(h, parents)

    @staticmethod
    def backward(ctx: Any, *residuals: Tensor) -> tuple[Tensor, None, None]:
        (h,) = ctx.saved_tensors
        return ctx.head.keep(h, ctx.parents, residuals[0].float()), None, None


class _AllLosses(torch.autograd.Function):
    """Losses at all slots, a part of them at a time; the backward pass scores them again, so that none are kept."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, documents: Tensor, positives: Tensor, head: LeanHead) -> Tensor:
        losses, largest = (torch.zeros(h.shape[0], device=h.device) for _ in range(2))
        for slots, _, logits in _in_parts(head, h):
            targets = block_targets(slots, documents, positives, h.shape[0])
            losses += slot_losses(logits, targets).sum(1)
            largest = torch.maximum(largest, (logits.sigmoid() - targets).abs().amax(1))
        ctx.save_for_backward(h, documents, positives, largest)
        ctx.head = head
        return losses

    @staticmethod
    def backward(ctx: Any, *weights: Tensor) -> tuple[Tensor, None, None, None]:
        h, documents, positives, largest = ctx.saved_tensors
        head, weight = ctx.head, weights[0].unsqueeze(1)
        least = head.least(largest * weights[0].abs())
        back, kept = torch.zeros_like(h), []
        for slots, rows, logits in _in_parts(head, h):
            residuals = (logits.sigmoid() - block_targets(slots, documents, positives, h.shape[0])) * weight
            back.addmm_(residuals, rows)
            of, places, values = _thinned(residuals, least)
            kept.append((of, slots[places], values))
        head.pending.append(Residual(h, *(torch.cat(part) for part in zip(*kept, strict=True))))
        return back, None, None, None


def _in_parts(head: LeanHead, h: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Some consecutive slots (S,) at a time: these, their rows (S, d) in float32 and their logits (B, S)."""
    for slots in torch.split(head.slots, UPDATED):
        rows, biases = head.rows(slots)
        with torch.autocast(h.device.type, enabled=False):
            logits = h @ rows.T + biases
        yield slots, rows, logits.masked_fill(~head.valid[slots], -torch.inf)


def _thinned(residuals: Tensor, least: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The documents (n,), places (n,) and values (n,) of the (B, S) residuals that are kept.

    Args:
        residuals: of S slots.
        least: (B,) below which a document's are thinned out, or None.
    """
    if least is not None:
        sizes, least = residuals.abs(), least.unsqueeze(1)
        lucky = torch.rand_like(sizes).mul_(least) < sizes
        residuals = torch.where(sizes < least, residuals.sign() * least, residuals) * lucky
    documents, places = residuals.nonzero(as_tuple=True)
    return documents, places, residuals[documents, places]


def _noise(weight: Tensor) -> Tensor | None:
    """(n, d) random numbers from 0 to 2^16 - 1 for `_rounded`; none where the rows of `weight` are not rounded."""
    if weight.dtype != torch.bfloat16:
        return None
    d = weight.shape[1]
    return torch.randint(2**16, (max(1, NOISE // d), d), dtype=torch.int32, device=weight.device)


def _rounded(rows: Tensor, slots: Tensor, noise: Tensor | None) -> Tensor:
    """Float32 rows (n, d) of n slots; with noise, in bfloat16, one of two neighbours by chances that keep the mean.

    A row's noise goes by its slot, so that it is the same whichever rows are rounded with it, and in whichever process.
    """
    if noise is None:
        return rows
    bits = rows.contiguous().view(torch.int32)
    bits.add_(noise[slots % noise.shape[0]])
    return bits.bitwise_and_(-(2**16)).view(torch.float32).to(torch.bfloat16)
