"""Classifier rows started at the mean vectors of their documents, instead of at random.

A pre-trained encoder already places texts on related subjects near each other, so a label's mean vector ranks it well
before any training (the same idea as PIFA label features, in the encoder's own space). With unit vectors x and v_c the
mean direction of class c, a von Mises-Fisher model of the classes gives the log-odds a·⟨v_c, x⟩ + log prior_c + const:
linear in x, so it is a classifier row and a bias.
"""

import logging
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cascadexml.data.tokens import TokenStore, length_bucketed
from cascadexml.progress import Progress
from cascadexml.rankers.cascade.heads import BLOCK, Head, blocks
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.rankers.cascade.positives import LevelPositives

# The concentration a: 20 to 30 rank dev about equally well on library records with sentence encoders.
CONCENTRATION = 25.0
SAMPLE = 1024

log = logging.getLogger(__name__)


@torch.no_grad()
def start_at_centroids(
    model: CascadeXML, tokens: TokenStore, positives: LevelPositives, batch_size: int, seed: int, progress: Progress
) -> None:
    """Set every head's rows and biases from one pass over the training texts.

    Vectors are centred by the mean of a sample of documents. The constant is chosen so that, on that sample, the
    expected number of positive nodes equals the true mean. Nodes without documents get a zero row and a low bias.
    """
    model.eval()
    device = next(model.parameters()).device
    N = tokens.lengths.size
    sampled = sample_vectors(model, tokens, batch_size, seed)
    means = [x.mean(0) for x in sampled]
    spreads = [(x - mean).norm(dim=1).mean().clamp(min=1e-6) for x, mean in zip(sampled, means, strict=True)]
    counts = [torch.zeros(head.slots.numel(), device=device) for head in model.heads]
    sums = [_Sums(head) for head in model.heads]
    done = 0
    for rows in length_bucketed(tokens.lengths, batch_size):
        batch = tokens.batch(rows)
        vectors = model.vectors(batch.input_ids.to(device), batch.attention_mask.to(device))
        for r, (documents, slots) in enumerate(positives.batch(rows, device)):
            units = functional.normalize(vectors[r].float() - means[r], dim=1)
            sums[r].add(documents, slots, units)
            counts[r].index_add_(0, slots, torch.ones_like(slots, dtype=torch.float32))
        done += rows.size
        progress("centroids", done, N, {})
    for r, head in enumerate(model.heads):
        sums[r].finish()
        for slots in blocks(head.held):
            summed, _ = head.rows(slots)
            directions = CONCENTRATION / spreads[r] * functional.normalize(summed, dim=1)
            priors = torch.log(counts[r][slots].clamp(min=0.5) / N)
            head.set_rows(slots, directions, priors - directions @ means[r])
        head.shift_biases(-_surplus(head, sampled[r], float(counts[r].sum()) / N))


class _Sums:
    """Sums of documents' vectors in a head's rows, many pairs at a time.

    A head that keeps rows in 16 bits rounds a row at each addition. Batch by batch the row of a label with 5,000
    documents would be off by 6.5 % of its length.
    """

    def __init__(self, head: Head) -> None:
        self.head = head
        self.pairs, self.documents = 0, 0
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        head.start_at_zero()

    def add(self, documents: Tensor, slots: Tensor, vectors: Tensor) -> None:
        """Add, for each of n pairs, the vector of one of B documents (B, d) to the row of a slot."""
        self.waiting.append((documents + self.documents, slots, vectors))
        self.documents += vectors.shape[0]
        self.pairs += slots.numel()
        if self.pairs >= BLOCK:
            self.finish()

    def finish(self) -> None:
        """Add what waits."""
        if self.waiting:
            documents, slots, vectors = (torch.cat(parts) for parts in zip(*self.waiting, strict=True))
            self.head.add_to_rows(slots, vectors[documents])
        self.pairs, self.documents, self.waiting = 0, 0, []


@torch.no_grad()
def sample_vectors(model: CascadeXML, tokens: TokenStore, batch_size: int, seed: int) -> list[Tensor]:
    """Each resolution's (n, d) float32 vectors of n = min(1024, N) documents drawn by the seed."""
    rows = np.sort(np.random.default_rng(seed).permutation(tokens.lengths.size)[:SAMPLE])
    device = next(model.parameters()).device
    parts = []
    for chunk in length_bucketed(tokens.lengths[rows], batch_size):
        batch = tokens.batch(rows[chunk])
        parts.append(model.vectors(batch.input_ids.to(device), batch.attention_mask.to(device)))
    return [torch.cat([part[r] for part in parts]).float() for r in range(len(parts[0]))]


def _surplus(head: Head, x: Tensor, expected: float) -> float:
    """The constant to take off every bias so that a document expects `expected` positives, by bisection."""
    few = max(1, min(x.shape[0], 2**26 // head.slots.numel()))
    logits = head.score_all(x[:few])
    low, high = -50.0, 200.0
    for _ in range(40):
        middle = (low + high) / 2
        found = float(head.total(torch.sigmoid(logits - middle).sum(1)).mean())
        low, high = (middle, high) if found > expected else (low, middle)
    return 0.0 if math.isnan(low) else low
