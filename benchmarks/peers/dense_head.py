"""The plain way to use an encoder: a sigmoid output a label over CLS ⊕ mean, trained over all labels at once."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from benchmarks.peers.base import Answer, Clock, Task
from cascadexml.data.tokens import TokenBatch, Tokens, length_bucketed, tokenize
from cascadexml.device import pick_device
from cascadexml.progress import console_progress
from cascadexml.rankers.cascade.encoder import load_encoder, load_tokenizer
from cascadexml.ranking import NO_LABEL, Ranking


class DenseHead(nn.Module):
    """(B, T) tokens → (B, L) logits."""

    def __init__(self, encoder: str, L: int, bias: float) -> None:
        super().__init__()
        self.encoder: Any = load_encoder(encoder)
        self.head = nn.Linear(2 * self.encoder.config.hidden_size, L)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.constant_(self.head.bias, bias)

    def forward(self, batch: TokenBatch) -> torch.Tensor:
        """(B, L) logits on the device of the weights."""
        device = self.head.weight.device
        ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        mean = (states * weights).sum(1) / weights.sum(1)
        logits: torch.Tensor = self.head(torch.cat([states[:, 0], mean], dim=1))
        return logits


def answer(task: Task, settings: Mapping[str, Any]) -> Answer:
    """Train it, and rank what is held out."""
    torch.manual_seed(task.seed)
    tokenizer = load_tokenizer(settings["encoder"])
    splits = task.corpus.splits
    with Clock.running() as training:
        model = DenseHead(settings["encoder"], task.L, settings["bias"]).to(pick_device())
        train(model, tokenize(splits["train"].texts, tokenizer, settings["max_length"]), task, settings)
    rankings, clocks = {}, {}
    for name in task.held_out:
        with Clock.running() as clocks[name]:
            tokens = tokenize(splits[name].texts, tokenizer, settings["max_length"])
            rankings[name] = rank(model, tokens, task.K, settings["batch_size"])
    return Answer(rankings, training, clocks)


def train(model: DenseHead, tokens: Tokens, task: Task, settings: Mapping[str, Any]) -> None:
    """Train `settings["epochs"]` passes, or `max_steps` steps; the rate rises for a tenth of them, then falls to 0."""
    batches = list(_epochs(tokens, task.seed, settings["batch_size"], settings["epochs"]))
    steps = min(len(batches), settings["max_steps"] or len(batches))
    optimizer = torch.optim.AdamW(
        [
            {"params": model.encoder.parameters(), "lr": settings["encoder_lr"]},
            {"params": model.head.parameters(), "lr": settings["head_lr"]},
        ]
    )
    rise = max(1, steps // 10)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, (steps - step) / max(1, steps - rise))
    )
    progress = console_progress()
    model.train()
    for step, rows in enumerate(itertools.islice(batches, steps)):
        Y = torch.from_numpy(task.labels[rows].toarray()).to(model.head.weight.device)
        loss = binary_cross_entropy_with_logits(model(tokens.batch(rows)), Y, reduction="sum") / len(rows)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
        optimizer.step()
        scheduler.step()
        progress("dense head", step + 1, steps, {"loss": float(loss.detach())})


def _epochs(tokens: Tokens, seed: int, batch_size: int, epochs: int) -> Iterator[np.ndarray]:
    for epoch in range(epochs):
        yield from length_bucketed(tokens.lengths, batch_size, seed=seed, epoch=epoch)


@torch.inference_mode()
def rank(model: DenseHead, tokens: Tokens, K: int, batch_size: int) -> Ranking:
    """The K labels of the highest probabilities."""
    model.eval()
    N = len(tokens)
    labels, scores = np.full((N, K), NO_LABEL, np.int32), np.full((N, K), -np.inf, np.float32)
    for rows in length_bucketed(tokens.lengths, batch_size):
        best = Ranking.from_scores(torch.sigmoid(model(tokens.batch(rows))).cpu().numpy(), K)
        labels[rows], scores[rows] = best.labels, best.scores
    return Ranking(labels, scores)
