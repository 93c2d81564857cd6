"""One resolution's classifier: score every node, or only the children of a shortlist; its targets and its loss.

A node's place in tree order is its slot: the m children of parent p stand in slots p·m … p·m + m - 1, one contiguous
block. Where a parent has fewer than m children its last slots are padding. Each slot has a row and a bias. How these
are stored and updated is known in this module alone: others see a `Head`, and ask `make_head` for one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# A matrix product over all slots runs some 64 times faster per slot than gathering rows does (the gather moves each
# row through memory once a document and again in the backward pass), so gathering pays only beyond that ratio. With few
# documents a product mostly reads rows: reading one takes as long as multiplying it with so many documents.
DENSE_RATIO = 64
READ = 31
# Slots that a pass over all rows takes at a time: 200 MB of float32 rows at d = 768.
BLOCK = 2**16


def blocks(values: Tensor) -> Iterator[Tensor]:
    """(n, ...) values of n slots, or the slots themselves, in parts of at most `BLOCK` slots, in order."""
    yield from torch.split(values, BLOCK)


class Head(nn.Module, ABC):
    """What the network, training and warm starts may ask of one resolution's classifier.

    All tensors lie on `device`. Rows and biases are given and taken at float32's precision or better, whatever they are
    stored as. Scores of `forward` are differentiable; nothing else is. `state_dict` and `load_state_dict` carry rows
    and biases between a head and a file of weights.

    Args:
        children: (P,) int64, how many children each parent of the level above has; [C] with P = 1 at the top.
        d: size of the vectors it scores.
    """

    valid: Tensor

    def __init__(self, children: Tensor, d: int) -> None:
        super().__init__()
        self.P = children.numel()
        self.m = int(children.max())
        self.d = d
        offsets = torch.arange(self.m, device=children.device)
        self.register_buffer("valid", (offsets < children.unsqueeze(1)).flatten(), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.valid.device

    @property
    def slots(self) -> Tensor:
        """(P·m,) int64: all slots, padding included."""
        return torch.arange(self.P * self.m, device=self.device)

    def children_of(self, parents: Tensor) -> Tensor:
        """(B, K) parents → the (B, K·m) slots of their children."""
        offsets = torch.arange(self.m, device=parents.device)
        return (parents.unsqueeze(2) * self.m + offsets).flatten(1)

    @abstractmethod
    def forward(self, h: Tensor, parents: Tensor | None) -> tuple[Tensor, Tensor]:
        """Score the children of `parents`, or every slot when `parents` is None.

        Args:
            h: (B, d) vectors.
            parents: (B, K) int64 without repeats in a row, or None for all P parents.

        Returns:
            logits (B, K·m), and slots (B, K·m) that they belong to. Padding slots have logit -inf.
        """

    def targets(self, parents: Tensor | None, documents: Tensor, positives: Tensor, B: int) -> Tensor:
        """0/1 targets of the scored slots, from (document, positive slot) pairs.

        Args:
            parents: (B, K) as given to `forward`, or None.
            documents: (Y,) int64, the batch row of each pair.
            positives: (Y,) int64, the slot of each pair; a slot outside the shortlist is passed over.
            B: documents in the batch.

        Returns:
            (B, K·m) float32, (B, P·m) when `parents` is None.
        """
        if parents is None:
            targets = torch.zeros(B, self.P * self.m, device=positives.device)
            targets[documents, positives] = 1.0
            return targets
        K = parents.shape[1]
        # A search in the sorted pairs of document and parent, as a table of all parents would be large.
        before = torch.arange(B, device=parents.device) * self.P
        listed, order = (parents + before.unsqueeze(1)).flatten().sort()
        wanted = before[documents] + positives // self.m
        found = torch.searchsorted(listed, wanted).clamp(max=listed.numel() - 1)
        inside = listed[found] == wanted
        places = order[found[inside]] % K
        targets = torch.zeros(B, K * self.m, device=parents.device)
        targets[documents[inside], places * self.m + positives[inside] % self.m] = 1.0
        return targets

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B,) losses of B documents from the (B, S) logits and targets of their scored slots."""
        return shortlist_loss(logits, targets)

    @abstractmethod
    def loss_over_all(self, h: Tensor, documents: Tensor, positives: Tensor) -> Tensor:
        """(B,) losses of B documents at every slot: binary cross-entropy, a sum over slots, padding left out.

        It is made in parts: there are never B·P·m numbers at once.

        Args:
            h: (B, d) vectors.
            documents: as of `targets`.
            positives: as of `targets`.
        """

    @property
    def shared(self) -> bool:
        """Whether several processes share its rows: each holds some, and all must take part whenever it scores."""
        return False

    @property
    def held(self) -> Tensor:
        """(V,) int64: the slots whose rows this process holds, padding included."""
        return self.slots

    def holds(self, slots: Tensor) -> Tensor:
        """(n,) bool: whether this process holds the rows of n slots."""
        return torch.ones_like(slots, dtype=torch.bool)

    def total(self, values: Tensor) -> Tensor:
        """Values that each process has from the slots that it holds, added up over all processes."""
        return values

    def part(self) -> Mapping[str, Tensor]:
        """What of `state_dict` lies in this process alone, by name: rows of consecutive slots, by rank."""
        return {}

    @abstractmethod
    def score_all(self, h: Tensor) -> Tensor:
        """(n, V) logits of n vectors (n, d) for the V held slots that are no padding, without dropout or gradient.

        The caller sees to it that n·V numbers fit memory.
        """

    @abstractmethod
    def start_at_random(self) -> None:
        """Draw every row anew (Xavier); biases are zero."""

    @abstractmethod
    def start_at_zero(self) -> None:
        """Set every row and bias to zero."""

    @abstractmethod
    def add_to_rows(self, slots: Tensor, vectors: Tensor) -> None:
        """Add vectors (n, d) to the rows of n slots, at float32's precision; a slot that stands twice gets both.

        Slots that are not held are passed over.
        """

    @abstractmethod
    def shift_biases(self, by: float) -> None:
        """Add a number to every bias."""

    @abstractmethod
    def rows(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the rows (n, d) and biases (n,) of n held slots. Go over many slots by `blocks`."""

    @abstractmethod
    def set_rows(self, slots: Tensor, rows: Tensor, biases: Tensor) -> None:
        """Set the rows (n, d) and biases (n,) of those of n slots that are held; the others stay."""

    def copy_rows(self, slots: Tensor, other: "Head", others: Tensor) -> None:
        """Give n slots the rows and biases that another head has in its slots `others` (n,), block by block."""
        for ours, theirs in zip(blocks(slots), blocks(others.to(other.device)), strict=True):
            rows, biases = other.rows(theirs)
            self.set_rows(ours, rows.to(self.device), biases.to(self.device))

    @abstractmethod
    def decay_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """What a gradient optimiser updates: the parameters under weight decay, and those without."""

    @abstractmethod
    def replicated(self) -> Sequence[Tensor]:
        """What each process of a training holds whole: copied from the first; gradients of parameters are summed."""

    def forget(self) -> None:
        """Forget the gradients that wait in this head; those of parameters are the gradient optimiser's."""
        return

    def gather(self, together: Callable[[Tensor], Tensor]) -> None:
        """Let every process have the gradients that wait in any; `together` gives all processes' tensors, by rank."""
        return

    def gradient_norms(self) -> list[Tensor]:
        """The lengths (scalars) of the gradients that wait in this head, for clipping."""
        return []

    def update(self, rate: float, decay: float, factor: float | Tensor = 1.0) -> None:
        """One step with the gradients that wait in this head, after which none do.

        Args:
            rate: learning rate.
            decay: every row shrinks by rate · decay; biases do not.
            factor: what gradients are multiplied by, for clipping.
        """
        return

    def training_state(self) -> Mapping[str, Tensor]:
        """What a checkpoint keeps besides rows and biases, by name; to be filled in place."""
        return {}


class MatrixHead(Head):
    """Rows as one matrix and biases as one vector, in tree order.

    Args:
        children: as of `Head`.
        d: as of `Head`.
        dropout: rate on the vectors in training.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, children: Tensor, d: int, dropout: float) -> None:
        super().__init__(children, d)
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """As of `Head`."""
        self.weight.zero_()
        self.bias.zero_()

    @torch.no_grad()
    def shift_biases(self, by: float) -> None:
        """As of `Head`."""
        self.bias.add_(by)


class DenseHead(MatrixHead):
    """All rows as one float32 matrix in tree order, W (P·m, d), on one device; each process holds a copy.

    Args:
        children: as of `Head`.
        d: as of `Head`.
        dropout: rate on the vectors in training.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, children: Tensor, d: int, dropout: float) -> None:
        super().__init__(children, d, dropout)
        self.weight = nn.Parameter(torch.empty(self.P * self.m, d))
        self.bias = nn.Parameter(torch.zeros(self.P * self.m))

    def forward(self, h: Tensor, parents: Tensor | None) -> tuple[Tensor, Tensor]:
        """As of `Head`: by one product over all slots, or by gathering the shortlist's rows where that is cheaper."""
        h = self.dropout(h)
        if parents is None:
            slots = self.slots.expand(h.shape[0], -1)
            logits = functional.linear(h, self.weight, self.bias)
            valid = self.valid.expand(h.shape[0], -1)
        else:
            slots = self.children_of(parents)
            B, K = parents.shape
            if self.P <= DENSE_RATIO * B / (B + READ) * K:
                logits = functional.linear(h, self.weight, self.bias).gather(1, slots)
            else:
                rows = functional.embedding(slots, self.weight)
                logits = torch.einsum("bsd,bd->bs", rows, h) + self.bias[slots]
            valid = self.valid[slots]
        return logits.masked_fill(~valid, -torch.inf), slots

    def loss_over_all(self, h: Tensor, documents: Tensor, positives: Tensor) -> Tensor:
        """As of `Head`: the backward pass scores each block again, so that none is kept."""
        h = self.dropout(h)
        losses = [
            checkpoint(self._block_loss, h, slots, documents, positives, use_reentrant=False)
            for slots in blocks(self.slots)
        ]
        return torch.stack(losses).sum(0)

    def _block_loss(self, h: Tensor, slots: Tensor, documents: Tensor, positives: Tensor) -> Tensor:
        part = slice(int(slots[0]), int(slots[-1]) + 1)
        logits = functional.linear(h, self.weight[part], self.bias[part]).masked_fill(~self.valid[part], -torch.inf)
        return slot_losses(logits, block_targets(slots, documents, positives, h.shape[0])).sum(1)

    @torch.no_grad()
    def score_all(self, h: Tensor) -> Tensor:
        """As of `Head`."""
        return functional.linear(h, self.weight, self.bias)[:, self.valid]

    @torch.no_grad()
    def start_at_random(self) -> None:
        """As of `Head`."""
        nn.init.xavier_uniform_(self.weight)
        self.bias.zero_()

    @torch.no_grad()
    def add_to_rows(self, slots: Tensor, vectors: Tensor) -> None:
        """As of `Head`."""
        self.weight.index_add_(0, slots, vectors)

    @torch.no_grad()
    def rows(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """As of `Head`."""
        return self.weight[slots], self.bias[slots]

    @torch.no_grad()
    def set_rows(self, slots: Tensor, rows: Tensor, biases: Tensor) -> None:
        """As of `Head`."""
        self.weight[slots] = rows
        self.bias[slots] = biases

    def decay_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """As of `Head`."""
        return [self.weight], [self.bias]

    def replicated(self) -> Sequence[Tensor]:
        """As of `Head`."""
        return [self.weight, self.bias]


def shortlist_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy with logits, mean over a document's scored slots: (B, S), (B, S) → (B,).

    Padding slots (logit -inf) count neither in the sum nor in the mean. A mean a document, not a mean over the batch's
    slots, keeps gradient accumulation exact whatever the micro-batches.
    """
    return slot_losses(logits, targets).sum(1) / torch.isfinite(logits).sum(1)


def slot_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy with logits, slot by slot: (B, S), (B, S) → (B, S) float32, 0 at padding."""
    valid = torch.isfinite(logits)
    losses = functional.binary_cross_entropy_with_logits(
        logits.masked_fill(~valid, 0.0).float(), targets, reduction="none"
    )
    return losses * valid


def block_targets(slots: Tensor, documents: Tensor, positives: Tensor, B: int) -> Tensor:
    """(B, S) float32 0/1 targets of S consecutive slots, from pairs as of `Head.targets`."""
    first, S = slots[0], slots.numel()
    inside = (positives >= first) & (positives < first + S)
    targets = torch.zeros(B, S, device=slots.device)
    targets[documents[inside], positives[inside] - first] = 1.0
    return targets


def pick_shortlist(logits: Tensor, slots: Tensor, K: int, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    """The K best-scored slots of each document; in training the positives stay in whatever their score.

    Args:
        logits: (B, S), -inf for padding.
        slots: (B, S) int64.
        K: length of the shortlist.
        targets: (B, S) 0/1 for teacher forcing, None at inference. The paper ranks by p + y; adding y to the logit
            before the sigmoid, times a number that no logit reaches, gives the same order where p saturates too.

    Returns:
        slots (B, K) and their logits (B, K), detached, best first.
    """
    logits = logits.detach().float()
    scores = logits if targets is None else logits + 1e4 * targets
    best = scores.topk(min(K, scores.shape[1]), dim=1).indices
    return slots.gather(1, best), logits.gather(1, best)
