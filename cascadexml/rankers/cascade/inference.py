"""The one path from tokens to labels: batches of like length, texts without content left out, the order restored.

Training's evaluation on dev, the ranker and all who use it rank here, so that one text has one score everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cascadexml.data.tokens import Tokens, length_bucketed
from cascadexml.device import is_out_of_memory
from cascadexml.errors import PredictionError
from cascadexml.labels.tree import LabelTree
from cascadexml.progress import Progress, silent
from cascadexml.rankers.base import BATCH_SIZE
from cascadexml.rankers.cascade.heads import Head
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.ranking import NO_LABEL, Ranking


class Network(Protocol):
    """What ranks a batch of tokens: `CascadeXML`, or the same with its encoder run by ONNX Runtime."""

    tree: LabelTree

    @property
    def heads(self) -> list[Head]:
        """The R resolutions' classifiers, coarse to fine."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it takes tokens."""
        ...

    def rank_with_vectors(self, input_ids: Tensor, attention_mask: Tensor, K: int) -> tuple[Tensor, Tensor, Tensor]:
        """As of `CascadeXML.rank_with_vectors`."""
        ...


def rank_tokens(
    network: Network, tokens: Tokens, K: int, batch_size: int = BATCH_SIZE, progress: Progress = silent
) -> Ranking:
    """The best K labels of N tokenised documents, with the network's own scores: what calibration is fitted on.

    Args:
        network: on the device that is to do the work. In training, it is put in evaluation mode and back.
        tokens: N documents. One without content gets no label.
        K: how many labels.
        batch_size: documents scored at once.
        progress: called after each batch with ("rank", documents done, documents with content, {}).

    Returns:
        A ranking (N, K) with scores in (0, 1).

    Raises:
        PredictionError: out of memory, or a document with content gets no label.
    """
    return _rank(network, tokens, K, batch_size, progress, None)


def attend_ranking(network: CascadeXML, tokens: Tokens, batch_size: int = BATCH_SIZE) -> None:
    """Take part in the `rank_tokens` of another process that shares heads with this one, over the same documents."""
    with _evaluating(network), torch.inference_mode():
        for _ in length_bucketed(tokens.lengths[tokens.with_content], batch_size) if network.shared else ():
            network.attend()


def rank_tokens_with_vectors(
    network: Network, tokens: Tokens, K: int, batch_size: int = BATCH_SIZE, progress: Progress = silent
) -> tuple[Ranking, npt.NDArray[np.float32]]:
    """What `rank_tokens` gives, and the (N, d) vectors that the labels were scored from; zeros without content."""
    vectors = np.zeros((len(tokens), network.heads[-1].d), dtype=np.float32)
    return _rank(network, tokens, K, batch_size, progress, vectors), vectors


def _rank(
    network: Network,
    tokens: Tokens,
    K: int,
    batch_size: int,
    progress: Progress,
    vectors: npt.NDArray[np.float32] | None,
) -> Ranking:
    """Rank; where `vectors` (N, d) are given, fill in those of the documents with content."""
    N, found = len(tokens), min(K, network.tree.L)
    labels = np.full((N, K), NO_LABEL, dtype=np.int32)
    scores = np.full((N, K), -np.inf, dtype=np.float32)
    device = network.device
    with_content, done = tokens.with_content, 0
    with _evaluating(network):
        for places in length_bucketed(tokens.lengths[with_content], batch_size):
            rows = with_content[places]
            batch = tokens.batch(rows)
            with _out_of_memory_said(device, *batch.input_ids.shape):
                best, score, read = network.rank_with_vectors(
                    batch.input_ids.to(device), batch.attention_mask.to(device), found
                )
                labels[rows, :found] = best.cpu().numpy()
                scores[rows, :found] = score.float().cpu().numpy()
                if vectors is not None:
                    vectors[rows] = read.float().cpu().numpy()
            _refuse_without_label(rows, labels[rows], scores[rows])
            done += len(rows)
            progress("rank", done, len(with_content), {})
    scores[labels == NO_LABEL] = -np.inf
    return Ranking(labels, scores)


def _refuse_without_label(
    rows: npt.NDArray[np.int64], labels: npt.NDArray[np.int32], scores: npt.NDArray[np.float32]
) -> None:
    """Content always has a best label: without one the weights, or what came of them, are no numbers."""
    lost = rows[(labels[:, :1] == NO_LABEL).any(axis=1) | np.isnan(scores).any(axis=1)]
    if lost.size:
        raise PredictionError(
            f"text {lost.min()} has content and yet gets no label, because the network gives it no score that is a "
            "number: its weights are damaged, fetch or train the model again."
        )


@contextmanager
def _evaluating(network: Network) -> Iterator[None]:
    # Going through all modules takes longer than a layer does on one text: only where it changes something.
    if not isinstance(network, nn.Module) or not network.training:
        yield
        return
    network.eval()
    try:
        yield
    finally:
        network.train()


@contextmanager
def _out_of_memory_said(device: torch.device, B: int, T: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise PredictionError(
            f"{device} ran out of memory on a batch of {B} texts of {T} tokens: use a smaller batch size."
        ) from None
