"""Warm starts: a model begins with the weights of an older one, whose labels are the first of its own.

Encoder, joins and the heads of clusters are copied as they are; a label's classifier row moves to its slot in the
extended tree. A new label's row points along the mean direction of its documents under the older encoder, which is
what `centroids` does for all labels; its length and bias are those of trained rows of labels about as frequent.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from cascadexml.bundle import Bundle
from cascadexml.data.tokens import TokenStore, length_bucketed
from cascadexml.errors import ConfigError
from cascadexml.progress import Progress
from cascadexml.rankers.cascade.centroids import sample_vectors
from cascadexml.rankers.cascade.heads import Head, blocks
from cascadexml.rankers.cascade.network import CascadeXML
from cascadexml.rankers.cascade.positives import label_slots

# A trained row is not quite parallel to the mean direction u of its label's documents: its share along u was 0.73 to
# 0.84 of its length (median 0.78) on library records. A new row of full length would outrank the trained ones.
ALIGNMENT = 0.75
# Trained labels of like frequency whose rows a new one is fitted to.
PEERS = 100
OR_COLD = "or set train.warm_start to false"

log = logging.getLogger(__name__)


@torch.no_grad()
def copy_weights(model: CascadeXML, place: Path | Bundle) -> int:
    """Copy the weights of the model bundle at `place` into `model`; give how many labels it has, L_old.

    Labels [0, L_old) of both are the same. Rows of labels from L_old on, and padding, become zero.

    Raises:
        ConfigError: the two differ in the encoder's shape, the layers that resolutions read, the pooling, or the tree.
        FormatError: the bundle is truncated, tampered with, of another kind or version.
    """
    base, path = CascadeXML.load(place), place.path if isinstance(place, Bundle) else place
    _check_encoder(model, base, path)
    for name in ("taps", "pooling"):
        ours, theirs = getattr(model.config, name), getattr(base.config, name)
        if ours != theirs:
            raise ConfigError(
                f"train.{name} gives {_plain(ours)}, the model at {path} was trained with {_plain(theirs)}: set it to "
                f"that, {OR_COLD}."
            )
    _check_tree(model, base, path)
    model.encoder.load_state_dict(base.encoder.state_dict())
    model.joins.load_state_dict(base.joins.state_dict())
    for head, older in zip(model.heads[:-1], base.heads[:-1], strict=True):
        head.copy_rows(head.slots, older, older.slots)
    leaf = model.heads[-1]
    leaf.start_at_zero()
    slots = torch.from_numpy(label_slots(model.tree)[: base.tree.L]).to(leaf.device)
    leaf.copy_rows(slots, base.heads[-1], torch.from_numpy(label_slots(base.tree)))
    log.info("warm start from %s: %d labels, %d new ones", path, base.tree.L, model.tree.L - base.tree.L)
    return base.tree.L


@torch.no_grad()
def start_new_labels(
    model: CascadeXML,
    first: int,
    tokens: TokenStore,
    Y: sparse.csr_matrix,
    batch_size: int,
    seed: int,
    progress: Progress,
) -> None:
    """Set the classifier rows of the labels from `first` on, by one pass over the documents that have one of them.

    With x̄ the mean vector of a sample of training documents, a row points along the mean of its documents' directions
    from x̄. Its length and its logit at x̄ are the medians of those of the trained labels nearest in frequency.

    Args:
        model: holds trained weights for the labels before `first`; the rows of the others are zero.
        first: rows of new labels are [first, L).
        tokens: of the N training documents.
        Y: (N, L') their label matrix, L' >= L.
        batch_size: documents a forward pass.
        seed: of the sample.
        progress: called after each batch.
    """
    L = model.tree.L
    if first == L:
        return
    model.eval()
    leaf = model.heads[-1]
    device = leaf.device
    mean = sample_vectors(model, tokens, batch_size, seed)[-1].mean(0)
    slots = torch.from_numpy(label_slots(model.tree)).to(device)
    new = Y[:, first:L].tocsr()
    having = np.flatnonzero(np.diff(new.indptr))
    done = 0
    for chunk in length_bucketed(tokens.lengths[having], batch_size):
        rows = having[chunk]
        batch = tokens.batch(rows)
        vectors = model.vectors(batch.input_ids.to(device), batch.attention_mask.to(device))[-1].float()
        documents, labels = (torch.from_numpy(places.astype(np.int64)).to(device) for places in new[rows].nonzero())
        leaf.add_to_rows(slots[first + labels], functional.normalize(vectors - mean, dim=1)[documents])
        done += rows.size
        progress("rows of new labels", done, having.size, {})
    counts = np.bincount(Y.indices, minlength=Y.shape[1])[:L]
    peers = _peers(counts[:first], counts[first:]).to(device)
    lengths, levels = _lengths_and_levels(leaf, slots[:first], mean)
    lengths, levels = lengths[peers].median(1).values, levels[peers].median(1).values
    mine = leaf.holds(slots[first:])
    parts = (slots[first:][mine], lengths[mine], levels[mine])
    for block, length, level in zip(*map(blocks, parts), strict=True):
        sums, _ = leaf.rows(block)
        started = ALIGNMENT * length.unsqueeze(1) * functional.normalize(sums, dim=1)
        leaf.set_rows(block, started, level - started @ mean)


def _lengths_and_levels(head: Head, slots: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """The lengths (n,) of the rows of n slots, and their logits (n,) at the vector `at` (d,)."""
    lengths, levels = torch.zeros(2, slots.numel(), device=slots.device)
    for block in blocks(torch.arange(slots.numel(), device=slots.device)[head.holds(slots)]):
        rows, biases = head.rows(slots[block])
        lengths[block] = rows.norm(dim=1)
        levels[block] = rows @ at + biases
    return head.total(lengths), head.total(levels)


def _peers(trained: np.ndarray, new: np.ndarray) -> Tensor:
    """For each new label's count the labels with the nearest counts among the trained: (n, P) int64.

    Labels without a document now are passed over, unless all are.
    """
    candidates = np.flatnonzero(trained) if trained.any() else np.arange(trained.size)
    order = candidates[np.argsort(trained[candidates], kind="stable")]
    P = min(PEERS, order.size)
    middle = (np.searchsorted(trained[order], new, "left") + np.searchsorted(trained[order], new, "right")) // 2
    start = np.clip(middle - P // 2, 0, order.size - P)
    return torch.from_numpy(order[start[:, None] + np.arange(P)])


def _check_encoder(model: CascadeXML, base: CascadeXML, path: Path) -> None:
    for name in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size"):
        ours, theirs = getattr(model.encoder.config, name, None), getattr(base.encoder.config, name, None)
        if ours != theirs:
            raise ConfigError(
                f"encoder.name gives an encoder with {name} {ours}, the model at {path} has {theirs}: name the encoder "
                f"that it was trained with, {OR_COLD}."
            )
    shapes = [{name: tuple(value.shape) for name, value in each.encoder.state_dict().items()} for each in (model, base)]
    differing = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
    if differing:
        raise ConfigError(
            f"encoder.name gives an encoder whose {differing[0]} is {shapes[0].get(differing[0], 'missing')}, in the "
            f"model at {path} it is {shapes[1].get(differing[0], 'missing')}: name the encoder that it was trained "
            f"with, {OR_COLD}."
        )


def _check_tree(model: CascadeXML, base: CascadeXML, path: Path) -> None:
    ours, theirs = model.tree, base.tree
    if ours.levels != theirs.levels:
        raise ConfigError(
            f"the label tree has levels of {list(ours.levels)} clusters, the model at {path} has "
            f"{list(theirs.levels)}: run the cluster stage with train.warm_start true, {OR_COLD}."
        )
    kept = ours.L >= theirs.L and all(
        np.array_equal(ours.cluster_of(level)[: theirs.L], theirs.cluster_of(level))
        for level in range(len(ours.levels))
    )
    if not kept:
        raise ConfigError(
            f"the label tree is not that of the model at {path} with new labels taken in: run the cluster stage with "
            f"train.warm_start true, {OR_COLD}."
        )


def _plain(value: object) -> object:
    return [list(layers) for layers in value] if isinstance(value, tuple) else value
