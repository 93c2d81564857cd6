"""CascadeXML: one transformer, one pass, a label tree whose resolutions are each read from their own layer.

Kharbanda, Banerjee, Schultheis, Babbar: CascadeXML: Rethinking Transformers for End-to-end Multi-resolution Training
in Extreme Multi-label Classification, NeurIPS 2022 (arXiv 2211.00640).
"""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from cascadexml.bundle import Bundle, Format
from cascadexml.checked_json import list_of, object_of, read_json
from cascadexml.config import TrainSettings
from cascadexml.errors import ConfigError, EncoderError, FormatError
from cascadexml.labels.tree import FORMAT as TREE_FORMAT
from cascadexml.labels.tree import LabelTree
from cascadexml.rankers.cascade.encoder import transformer_from_config
from cascadexml.rankers.cascade.heads import DenseHead, Head, pick_shortlist
from cascadexml.rankers.cascade.lean_head import LeanHead
from cascadexml.rankers.cascade.positives import children_of_levels, label_slots
from cascadexml.rankers.cascade.sharded_head import Peers, ShardedHead
from cascadexml.rankers.cascade.stored import check_classifiers, read_encoder_config, shapes_of

FORMAT = Format("cascadexml.model", 2)
T = TypeVar("T")

# The paper's taps, for 12 layers: the coarsest resolution reads two layers, the labels read the last.
PAPER_TAPS = {3: ((7, 8), (10,), (12,)), 4: ((5, 6), (8,), (10,), (12,))}
PAPER_DROPOUT = {3: (0.2, 0.3, 0.5), 4: (0.2, 0.25, 0.4, 0.5)}
PAPER_SHORTLISTS = (128, 256, 400)
LEAN_NODES = 2**16
"""From so many nodes on a resolution's classifier is lean, where the settings leave it open."""
ROWS = {"bf16": torch.bfloat16, "fp32": torch.float32}

UNFIT = (KeyError, TypeError, ValueError, RuntimeError, SafetensorError)
"""What reading parts raises that do not fit each other."""
HEADS = "_heads."
"""What names of their weights begin with."""

Rows = Literal["dense", "bf16", "fp32"]
POOLINGS, SCORES = ("cls", "mean"), ("leaf", "weighted")


@dataclass(frozen=True)
class ModelConfig:
    """All that defines the network besides the encoder's own configuration and the tree.

    Attributes:
        taps: for each of R resolutions, the layers (1 to depth) whose vectors it reads; several are concatenated.
        dropout: rate on each resolution's vector in training.
        shortlist: K of each of the R - 1 resolutions above the labels.
        pooling: a layer's vector is that of the first token ("cls") or the mean over the text's tokens ("mean").
        score: a label's score is sigmoid(leaf), or "weighted": sigmoid(leaf) · sigmoid(parent).
        rows: each resolution's classifier: a "dense" matrix, or lean with rows in "bf16" or "fp32"; empty: all dense.
    """

    taps: tuple[tuple[int, ...], ...]
    dropout: tuple[float, ...]
    shortlist: tuple[int, ...]
    pooling: Literal["cls", "mean"]
    score: Literal["leaf", "weighted"]
    rows: tuple[Rows, ...] = ()

    def __post_init__(self) -> None:
        if not all(layers and all(type(layer) is int and layer >= 1 for layer in layers) for layers in self.taps):
            raise ValueError("taps are no layers, counted from 1, of each resolution")
        if not all(type(rate) in (int, float) and 0 <= rate <= 1 for rate in self.dropout):
            raise ValueError("dropout is no rate from 0 to 1 of each resolution")
        if not all(type(K) is int and K >= 1 for K in self.shortlist):
            raise ValueError("shortlist is no length from 1 on of each resolution above the labels")
        R = len(self.taps)
        if R < 1 or len(self.dropout) != R or len(self.shortlist) != R - 1 or len(self.rows) not in (0, R):
            raise ValueError(f"taps, dropout, shortlist and rows are not of {R} resolutions")
        for name, value, choices in (("pooling", self.pooling, POOLINGS), ("score", self.score, SCORES)):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
        if not all(rows in get_args(Rows) for rows in self.rows):
            raise ValueError(f"rows are {self.rows}, expected each one of {', '.join(get_args(Rows))}")


def default_taps(depth: int, R: int) -> tuple[tuple[int, ...], ...]:
    """Which layers each resolution reads, for any depth and R resolutions.

    At 12 layers the paper's. Deeper encoders keep its shares of the depth. In shallower ones the distance to the top
    shrinks with the square of the depth: they are mostly distilled, and vectors from below their last layers tell
    clusters apart far worse. Where the paper has no tree of R resolutions, its lowest to its highest layer are spread
    evenly.
    """
    paper = PAPER_TAPS.get(R) or tuple((layer,) for layer in np.linspace(12.0 if R == 1 else 7.5, 12.0, R).tolist())
    scale = depth / 12 if depth >= 12 else (depth / 12) ** 2
    return tuple(tuple(sorted({max(1, depth - round((12 - layer) * scale)) for layer in layers})) for layers in paper)


def derive_config(settings: TrainSettings, depth: int, tree: LabelTree) -> ModelConfig:
    """Fill what the settings leave null by the rules for this depth and tree.

    Raises:
        ConfigError: a list has not one value a resolution, or a tap lies outside the encoder's layers.
    """
    R = len(tree.levels) + 1
    taps = tuple(map(tuple, settings.taps)) if settings.taps is not None else default_taps(depth, R)
    dropout = settings.dropout or PAPER_DROPOUT.get(R) or np.linspace(0.2, 0.5, R).tolist()
    shortlist = settings.shortlist or [
        min(C, K) for C, K in zip(tree.levels, (*PAPER_SHORTLISTS, *[PAPER_SHORTLISTS[-1]] * R), strict=False)
    ]
    _one_a_resolution("taps", taps, R, tree)
    return ModelConfig(
        _within(taps, depth),
        tuple(_one_a_resolution("dropout", dropout, R, tree)),
        tuple(_one_a_resolution("shortlist", shortlist, R - 1, tree)),
        settings.pooling,
        settings.score,
        tuple(_rows(settings, nodes) for nodes in (*tree.levels, tree.L)),
    )


def _rows(settings: TrainSettings, nodes: int) -> Rows:
    """How a resolution of so many nodes keeps its rows."""
    lean = settings.heads == "lean" or (settings.heads == "auto" and nodes >= LEAN_NODES)
    return settings.lean_rows if lean else "dense"


def make_head(children: Tensor, d: int, dropout: float, rows: Rows, peers: Peers | None = None) -> Head:
    """The head for a resolution whose parents have `children` (P,) children each, with random rows (Xavier).

    Peers share it if it is lean and there is a parent for each of them: dense heads are small, and the first resolution
    has a single parent.
    """
    if rows == "dense":
        return DenseHead(children, d, dropout)
    if peers is not None and 1 < peers.size <= children.numel():
        return ShardedHead(children, d, dropout, ROWS[rows], peers)
    return LeanHead(children, d, dropout, ROWS[rows])


def derive_loss_weights(settings: TrainSettings, tree: LabelTree) -> list[float]:
    """The weight of each of the R resolutions' losses; 1 where the settings leave it open.

    Raises:
        ConfigError: there is neither one value nor one a resolution.
    """
    return list(_one_a_resolution("loss_weights", settings.loss_weights or [1.0], len(tree.levels) + 1, tree))


def _one_a_resolution(name: str, values: Sequence[T], expected: int, tree: LabelTree) -> Sequence[T]:
    """A single number holds for all resolutions; a list of another length than expected is refused."""
    if len(values) == 1 and not isinstance(values[0], Sequence):
        return [values[0]] * expected
    if len(values) != expected:
        raise ConfigError(
            f"train.{name} has {len(values)} values, expected {expected}: the label tree has {len(tree.levels) + 1} "
            f"resolutions (clusters {list(tree.levels)}, then labels); change train.{name} or cluster.levels."
        )
    return values


def _within(taps: tuple[tuple[int, ...], ...], depth: int) -> tuple[tuple[int, ...], ...]:
    for layers in taps:
        if not layers or not all(1 <= layer <= depth for layer in layers):
            raise ConfigError(f"train.taps has {list(layers)}, expected layers from 1 to {depth}, the encoder's depth.")
    return taps


@dataclass(frozen=True)
class LevelOutput:
    """One resolution's part of a training step.

    Attributes:
        losses: (B,) of each document.
        logits: (B, S) of the scored slots; S is 0 where the loss was made in parts.
        targets: (B, S) of these.
        slots: (B, S) int64, the slots they stand for.
    """

    losses: Tensor
    logits: Tensor
    targets: Tensor
    slots: Tensor


class CascadeXML(nn.Module):
    """The network.

    Args:
        encoder: any Hugging Face encoder that gives hidden states.
        tree: the label tree; its L labels are the rows that `rank` gives.
        config: taps, dropout, shortlists.
        start: draw the heads' rows at random; without it they hold whatever memory held.
        peers: processes that share the rows of lean heads; None: this one holds all.
    """

    label_of_slot: Tensor

    def __init__(
        self,
        encoder: PreTrainedModel,
        tree: LabelTree,
        config: ModelConfig,
        *,
        start: bool = True,
        peers: Peers | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.tree = tree
        self.config = config
        d = encoder.config.hidden_size
        self.joins = nn.ModuleList(
            nn.Linear(len(layers) * d, d) if len(layers) > 1 else nn.Identity() for layers in config.taps
        )
        self._heads = make_heads(tree, config, d, peers)
        for head in self.heads if start else ():
            head.start_at_random()
        self.register_buffer("label_of_slot", labels_of_slots(tree, self.heads[-1]), persistent=False)

    @property
    def heads(self) -> list[Head]:
        """The R resolutions' classifiers, coarse to fine."""
        return cast(list[Head], list(self._heads))

    @property
    def shared(self) -> bool:
        """Whether processes share a head's rows: then all must take part in every pass, by `attend` at least."""
        return any(head.shared for head in self.heads)

    def part(self) -> dict[str, Tensor]:
        """What of `state_dict` lies in this process alone, by name; of all processes by rank it makes the whole."""
        heads = enumerate(self.heads)
        return {f"{HEADS}{r}.{name}": value for r, head in heads for name, value in head.part().items()}

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.heads[-1].device

    @property
    def replicated(self) -> list[Tensor]:
        """The parameters and buffers that each process of a training holds whole."""
        shared = [
            tensor for module in (self.encoder, self.joins) for tensor in (*module.parameters(), *module.buffers())
        ]
        return [*shared, *(parameter for head in self.heads for parameter in head.replicated())]

    def freeze(self, layers: int) -> None:
        """Keep the embeddings and the lowest `layers` transformer layers as they are; 0 freezes nothing."""
        if layers == 0:
            return
        for name, parameter in self.encoder.named_parameters():
            numbered = re.search(r"\blayers?\.(\d+)\.", name)
            if int(numbered.group(1)) < layers if numbered else "embedding" in name or "pos_bias" in name:
                parameter.requires_grad_(False)

    def vectors(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Each resolution's (B, d) vectors, from (B, T) tokens and their mask.

        Raises:
            EncoderError: the encoder gives no hidden state for every layer.
        """
        return vectors_of(self.encoder, self.joins, self.config, input_ids, attention_mask)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        positives: Sequence[tuple[Tensor, Tensor]],
        *,
        all_labels: bool = False,
    ) -> list[LevelOutput]:
        """Every resolution's losses and logits over its shortlist, with teacher forcing.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T) int64.
            positives: for each resolution (document, slot) pairs, as `LevelPositives.batch` gives them.
            all_labels: the last resolution learns from all L labels instead. Its loss is a sum over them then, divided
                by as many as a shortlist holds, so that a positive weighs as much as with one.
        """
        B = input_ids.shape[0]
        outputs = []
        parents = None
        for r, h in enumerate(self.vectors(input_ids, attention_mask)):
            head = self.heads[r]
            if all_labels and parents is not None and r == len(self.config.shortlist):
                shortlisted = parents.shape[1] * self.tree.L / head.P
                none = torch.empty(B, 0, device=h.device)
                outputs.append(LevelOutput(head.loss_over_all(h, *positives[r]) / shortlisted, none, none, none.long()))
                continue
            logits, slots = head(h, parents)
            targets = head.targets(parents, *positives[r], B)
            outputs.append(LevelOutput(head.loss(logits, targets), logits, targets, slots))
            if r < len(self.config.shortlist):
                parents, _ = pick_shortlist(logits, slots, self.config.shortlist[r], targets)
        return outputs

    def attend(self) -> None:
        """Take part in a pass of the other processes with no document of one's own; backward too, unless in inference.

        A forward pass of theirs goes through the shared heads coarse to fine, their backward pass fine to coarse.
        """
        device = next(self.parameters()).device
        none = torch.zeros(0, dtype=torch.long, device=device)
        shared = [head for head in self.heads if head.shared]
        scores = [head(torch.zeros(0, head.d, device=device), none.view(0, 1))[0].sum() for head in shared]
        if scores and torch.is_grad_enabled():
            torch.stack(scores).sum().backward()  # type: ignore[no-untyped-call]

    def losses(self, outputs: Sequence[LevelOutput]) -> Tensor:
        """(B, R) loss of each document at each resolution."""
        return torch.stack([level.losses for level in outputs], dim=1)

    def rank(self, input_ids: Tensor, attention_mask: Tensor, K: int) -> tuple[Tensor, Tensor]:
        """The label rows and scores that `rank_with_vectors` gives."""
        labels, scores, _ = self.rank_with_vectors(input_ids, attention_mask, K)
        return labels, scores

    @torch.inference_mode()
    def rank_with_vectors(self, input_ids: Tensor, attention_mask: Tensor, K: int) -> tuple[Tensor, Tensor, Tensor]:
        """The best K labels of each text, and the vectors that these were scored from.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T) int64.
            K: how many labels; the end of a row is padded where the shortlist holds fewer.

        Returns:
            label rows (B, K) int64, best first, -1 for padding; scores (B, K) float32 in (0, 1), 0 for padding; the
            last resolution's vectors (B, d).
        """
        vectors = self.vectors(input_ids, attention_mask)
        return *rank_vectors(vectors, self.heads, self.label_of_slot, self.config, K), vectors[-1]

    def save(self, path: Path, parts: Sequence[Path] = ()) -> None:
        """Write weights (safetensors), configuration, the encoder's configuration and the tree as one bundle.

        Args:
            path: where the bundle will lie.
            parts: files (safetensors) of what `part` gives in the other processes, by rank; the bundle holds all of it.
        """
        with FORMAT.write(path) as folder:
            write_config(self.config, folder / "config.json")
            encoder = json.loads(self.encoder.config.to_json_string(use_diff=False))
            # Where the encoder lay on this machine is nobody's concern, and would make equal models differ.
            encoder.pop("_name_or_path", None)
            (folder / "encoder.json").write_text(json.dumps(encoder, indent=2, sort_keys=True) + "\n")
            self.tree.save(folder / "tree")
            weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
            others = [load_file(part) for part in parts]
            for name in self.part() if others else ():
                pieces = [weights[name], *(other[name] for other in others)]
                weights[name] = _joined(pieces, parts[0].with_suffix(".joined"))
            save_file(weights, folder / "model.safetensors")

    @classmethod
    def load(cls, place: Path | Bundle, device: str = "cpu") -> "CascadeXML":
        """Read what `save` wrote, ready for `rank`.

        Args:
            place: where it lies, or the bundle that has been verified.
            device: as of torch.

        Raises:
            FormatError: the folder is truncated, tampered with, of another kind or version, its parts do not fit each
                other, or a weight is NaN or infinite.
        """
        found = FORMAT.read(place)
        path = found.path
        try:
            shapes, config = shapes_of(path / "model.safetensors"), read_config(path / "config.json")
            encoder = transformer_from_config(read_encoder_config(path / "encoder.json", shapes))
            tree = LabelTree.load(found.part("tree", TREE_FORMAT))
            check_classifiers(shapes, tree, config.taps, encoder.config.hidden_size, joined=True)
            model = cls(encoder, tree, config, start=False)
            load_weights(model, path / "model.safetensors")
        except (EncoderError, OSError, *UNFIT) as error:
            raise FormatError(f"{path} does not hold a CascadeXML model whose parts fit ({told(error)}).") from None
        return model.eval().to(device)


def _joined(parts: Sequence[Tensor], file: Path) -> Tensor:
    """Tensors (n_i, ...) one below the other, in a file that goes when the result does: memory need not hold them."""
    file.unlink(missing_ok=True)
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    whole = torch.from_file(str(file), shared=True, size=math.prod(shape), dtype=parts[0].dtype).view(shape)
    file.unlink()
    torch.cat(list(parts), out=whole)
    return whole


def make_heads(tree: LabelTree, config: ModelConfig, d: int, peers: Peers | None = None) -> nn.ModuleList:
    """The R resolutions' classifiers over vectors of size d, coarse to fine; their rows hold whatever memory held."""
    dense: Rows = "dense"
    return nn.ModuleList(
        make_head(torch.from_numpy(children), d, rate, rows, peers)
        for children, rate, rows in zip(
            children_of_levels(tree), config.dropout, config.rows or [dense] * len(config.taps), strict=True
        )
    )


def labels_of_slots(tree: LabelTree, leaf: Head) -> Tensor:
    """(P·m,) int64: the label of each slot of the last resolution's classifier, -1 for padding."""
    found = torch.full_like(leaf.slots, -1)
    found[torch.from_numpy(label_slots(tree))] = torch.arange(tree.L)
    return found


def vectors_of(
    encoder: PreTrainedModel, joins: nn.ModuleList, config: ModelConfig, input_ids: Tensor, attention_mask: Tensor
) -> list[Tensor]:
    """Each resolution's (B, d) vectors, as of `CascadeXML.vectors`, from its parts."""
    output = encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True)
    states = output.hidden_states
    deepest = max(max(layers) for layers in config.taps)
    if states is None or len(states) <= deepest:
        raise EncoderError(
            f"the encoder ({encoder.config.model_type}) gives no hidden state of layer {deepest}: "
            "choose an encoder such as BERT, RoBERTa, MPNet or XLM-R."
        )
    if config.pooling == "cls":
        pooled = {layer: states[layer][:, 0] for layers in config.taps for layer in layers}
    else:
        weights = attention_mask.unsqueeze(2) / attention_mask.sum(1).clamp(min=1)[:, None, None]
        pooled = {
            layer: (states[layer] * weights.to(states[layer].dtype)).sum(1)
            for layers in config.taps
            for layer in layers
        }
    return [
        join(torch.cat([pooled[layer] for layer in layers], dim=1))
        for join, layers in zip(joins, config.taps, strict=True)
    ]


def rank_vectors(
    vectors: Sequence[Tensor], heads: Sequence[Head], label_of_slot: Tensor, config: ModelConfig, K: int
) -> tuple[Tensor, Tensor]:
    """The best K labels of each text, by the cascade of shortlists.

    Args:
        vectors: each of R resolutions' (B, d).
        heads: the R classifiers.
        label_of_slot: as of `labels_of_slots`.
        config: shortlists and score.
        K: how many labels.

    Returns:
        Label rows and scores (B, K), as of `CascadeXML.rank_with_vectors`.
    """
    parents, above = None, None
    log_score, slots = torch.empty(0), torch.empty(0)
    for r, (head, h) in enumerate(zip(heads, vectors, strict=True)):
        logits, slots = head(h, parents)
        log_score = functional.logsigmoid(logits.float())
        if r < len(config.shortlist):
            parents, above = pick_shortlist(logits, slots, config.shortlist[r], None)
        elif config.score == "weighted" and above is not None:
            log_score = log_score + functional.logsigmoid(above).repeat_interleave(head.m, dim=1)
    found = min(K, log_score.shape[1])
    best, places = log_score.topk(found, dim=1)
    labels = label_of_slot[slots.gather(1, places)]
    empty = K - found
    return functional.pad(labels, (0, empty), value=-1), functional.pad(best.exp(), (0, empty), value=0.0)


def write_config(config: ModelConfig, file: Path) -> None:
    """Write what `read_config` reads."""
    file.write_text(json.dumps(dataclasses.asdict(config), indent=1) + "\n", encoding="utf-8")


def read_config(file: Path) -> ModelConfig:
    """The configuration that `write_config` wrote; raises one of `UNFIT` where it is none."""
    fields = dict(object_of(read_json(file)))
    for name in ("taps", "dropout", "shortlist", "rows"):
        fields[name] = tuple(tuple(v) if isinstance(v, list) else v for v in list_of(fields, name))
    return ModelConfig(**fields)


def load_weights(module: nn.Module, file: Path) -> None:
    """Give a module the weights of a safetensors file; rows of heads stay where they are, mapped into memory.

    Raises:
        FormatError: a weight is NaN or infinite.
        KeyError, TypeError, ValueError, RuntimeError, SafetensorError: `UNFIT`, the file does not fit the module.
    """
    weights = load_file(file)
    for name, kept in module.state_dict().items():
        if weights[name].dtype != kept.dtype:
            raise TypeError(f"{name} is of {weights[name].dtype}, expected {kept.dtype}")
        if not name.startswith(HEADS):
            weights[name] = weights[name].clone()
    module.load_state_dict(weights, assign=True)
    for name, value in weights.items():
        if not all_finite(value):
            raise FormatError(
                f"{file} holds a weight that is NaN or infinite in {name}, which ranks nothing: fetch or train "
                "the model again."
            )


def told(error: Exception) -> str:
    """What an error says, on one line and not at length."""
    return " ".join(str(error).split())[:300]


def all_finite(value: Tensor) -> bool:
    """Whether no number of a tensor is NaN or infinite; looked at in parts, as marks of all rows would be as large."""
    return all(bool(part.isfinite().all()) for part in torch.split(value.flatten(), 2**24))
