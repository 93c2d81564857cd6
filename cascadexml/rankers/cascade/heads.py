"""One resolution's classifier: score every node, or only the children of a shortlist; its targets and its loss.

Rows are stored in tree order, `W[P, m, d]`: the m children of parent p are rows p·m … p·m + m - 1, one contiguous
block. A node's row is called its slot. Where a parent has fewer than m children its last slots are padding.
Nothing outside this module reads or writes classifier rows.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

# A matrix product over all slots runs some 64 times faster per slot than gathering rows does (the gather moves each
# row through memory once a document and again in the backward pass), so gathering pays only beyond that ratio.
DENSE_RATIO = 64


class Head(nn.Module):
    """Linear classifier of one resolution.

    Args:
        children: (P,) int64, how many children each parent of the level above has; [C] with P = 1 at the top.
        d: size of the vectors it scores.
        dropout: rate on those vectors in training.
    """

    valid: Tensor

    def __init__(self, children: Tensor, d: int, dropout: float) -> None:
        super().__init__()
        self.P = children.numel()
        self.m = int(children.max())
        self.d = d
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.empty(self.P * self.m, d))
        self.bias = nn.Parameter(torch.zeros(self.P * self.m))
        nn.init.xavier_uniform_(self.weight)
        offsets = torch.arange(self.m, device=children.device)
        self.register_buffer("valid", (offsets < children.unsqueeze(1)).flatten(), persistent=False)

    def forward(self, h: Tensor, parents: Tensor | None) -> tuple[Tensor, Tensor]:
        """Score the children of `parents`, or every slot when `parents` is None.

        Args:
            h: (B, d) vectors.
            parents: (B, K) int64 without repeats in a row, or None for all P parents.

        Returns:
            logits (B, K·m), and slots (B, K·m) that they belong to. Padding slots have logit -inf.
        """
        h = self.dropout(h)
        if parents is None:
            slots = torch.arange(self.P * self.m, device=h.device).expand(h.shape[0], -1)
            logits = functional.linear(h, self.weight, self.bias)
            valid = self.valid.expand(h.shape[0], -1)
        else:
            slots = self._children(parents)
            if self.P <= DENSE_RATIO * parents.shape[1]:
                logits = functional.linear(h, self.weight, self.bias).gather(1, slots)
            else:
                rows = functional.embedding(slots, self.weight)
                logits = torch.einsum("bsd,bd->bs", rows, h) + self.bias[slots]
            valid = self.valid[slots]
        return logits.masked_fill(~valid, -torch.inf), slots

    def _children(self, parents: Tensor) -> Tensor:
        """(B, K) parents → (B, K·m) slots."""
        offsets = torch.arange(self.m, device=parents.device)
        return (parents.unsqueeze(2) * self.m + offsets).flatten(1)

    def targets(self, parents: Tensor | None, documents: Tensor, positives: Tensor, B: int) -> Tensor:
        """0/1 targets of the scored slots, from (document, positive slot) pairs, in O(B·P + pairs).

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
        place = torch.full((B, self.P), -1, dtype=torch.long, device=parents.device)
        place.scatter_(1, parents, torch.arange(K, device=parents.device).expand(B, -1))
        found = place[documents, positives // self.m]
        inside = found >= 0
        targets = torch.zeros(B, K * self.m, device=parents.device)
        targets[documents[inside], found[inside] * self.m + positives[inside] % self.m] = 1.0
        return targets

    @torch.no_grad()
    def start_at(self, centroids: Tensor, bias: Tensor) -> None:
        """Set rows (P·m, d) and biases (P·m), for an initialisation from label features."""
        self.weight.copy_(centroids)
        self.bias.copy_(bias)

    @torch.no_grad()
    def rows(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Copies of the rows (n, d) and biases (n,) of n slots."""
        return self.weight[slots], self.bias[slots]

    @torch.no_grad()
    def set_rows(self, slots: Tensor, weight: Tensor, bias: Tensor) -> None:
        """Set the rows (n, d) and biases (n,) of n slots; the others stay."""
        self.weight[slots] = weight
        self.bias[slots] = bias


def shortlist_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy with logits, mean over a document's scored slots: (B, S), (B, S) → (B,).

    Padding slots (logit -inf) count neither in the sum nor in the mean. A mean a document, not a mean over the batch's
    slots, keeps gradient accumulation exact whatever the micro-batches.
    """
    valid = torch.isfinite(logits)
    losses = functional.binary_cross_entropy_with_logits(
        logits.masked_fill(~valid, 0.0).float(), targets, reduction="none"
    )
    return (losses * valid).sum(1) / valid.sum(1)


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
