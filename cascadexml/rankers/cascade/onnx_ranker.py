"""The cascade exported: its encoder run by ONNX Runtime on the CPU, tree and classifiers as the network has them.

So the labels of equal vectors are equal by construction, and millions of classifier rows need no second format: they
are mapped into memory here as there. `cascadexml.rankers.exporting` writes one. It ranks and cannot be trained.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Self, cast, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cascadexml.bundle import Bundle
from cascadexml.checked_json import whole
from cascadexml.errors import FormatError, PredictionError
from cascadexml.labels.tree import FORMAT as TREE_FORMAT
from cascadexml.labels.tree import LabelTree
from cascadexml.rankers.base import BATCH_SIZE, FORMATS
from cascadexml.rankers.cascade.heads import Head
from cascadexml.rankers.cascade.network import (
    HEADS,
    UNFIT,
    ModelConfig,
    labels_of_slots,
    load_weights,
    make_heads,
    rank_vectors,
    read_config,
    told,
    write_config,
)
from cascadexml.rankers.cascade.onnx_encoder import OnnxEncoder
from cascadexml.rankers.cascade.ranker import TokenRanker, check_runs, max_length_of
from cascadexml.rankers.cascade.stored import check_classifiers, shapes_of
from cascadexml.rankers.cascade.tokenizer_files import load_packed_tokenizer

FORMAT = FORMATS["cascade-onnx"]
ENCODER = "encoder.onnx"
Precision = Literal["fp32", "int8"]
"""In what the encoder's linear layers multiply."""

log = logging.getLogger(__name__)


class OnnxNetwork(nn.Module):
    """What `CascadeXML` is to who ranks, on the CPU.

    Args:
        encoder: tokens → each resolution's vectors.
        tree: the label tree; its L labels are the rows that it gives.
        config: taps, shortlists, score.
        d: size of the vectors.
    """

    label_of_slot: Tensor

    def __init__(self, encoder: OnnxEncoder, tree: LabelTree, config: ModelConfig, d: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.tree = tree
        self.config = config
        self.d = d
        self._heads = make_heads(tree, config, d)
        self.register_buffer("label_of_slot", labels_of_slots(tree, self.heads[-1]), persistent=False)

    @property
    def heads(self) -> list[Head]:
        """The R resolutions' classifiers, coarse to fine."""
        return cast(list[Head], list(self._heads))

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return self.label_of_slot.device

    @torch.inference_mode()
    def rank_with_vectors(self, input_ids: Tensor, attention_mask: Tensor, K: int) -> tuple[Tensor, Tensor, Tensor]:
        """As of `CascadeXML.rank_with_vectors`."""
        vectors = self.encoder.vectors(input_ids, attention_mask)
        return *rank_vectors(vectors, self.heads, self.label_of_slot, self.config, K), vectors[-1]


@dataclass(eq=False)
class OnnxRanker(TokenRanker):
    """A cascade that was exported, ready to rank.

    In fp32 its scores are the network's to 1e-4. In int8 they differ by what rounding weights and activations costs,
    and are still the same alone and in any batch: each token is rounded by itself.

    Attributes:
        network: with its encoder in ONNX.
        precision: what the encoder multiplies in.
    """

    network: OnnxNetwork
    precision: Precision = "fp32"

    kind: ClassVar = "cascade-onnx"

    def save(self, folder: Path) -> None:
        """Write a bundle to `folder`; the encoder and the tokenizer are copied from where they were read."""
        source = self.network.encoder.file.parent
        with FORMAT.write(folder, meta_of(self.L, self.max_length, self.network.d, self.precision)) as new:
            shutil.copyfile(source / ENCODER, new / ENCODER)
            shutil.copytree(source / "tokenizer", new / "tokenizer", copy_function=shutil.copyfile)
            write_classifiers(self.network, self.network.config, self.network.tree, new)

    @classmethod
    def load(cls, place: Path | Bundle, device: str = "auto", batch_size: int = BATCH_SIZE) -> Self:
        """Read what `save` or `export_ranker` wrote.

        Args:
            place: where it lies, or the bundle that has been verified.
            device: "cpu", or "auto", which is the CPU too.
            batch_size: documents scored at once.

        Raises:
            ConfigError: onnxruntime or onnx is not installed.
            FormatError: it is truncated, tampered with, of another kind or version, or its parts do not fit.
            PredictionError: `device` is another one.
        """
        found = FORMAT.read(place)
        if device not in ("auto", "cpu"):
            raise PredictionError(
                f"device {device!r}: {found.path} was exported to ONNX, which runs on the CPU: use cpu or auto, or the "
                "model that it was exported from."
            )
        log.info("device: cpu, by ONNX Runtime")
        try:
            d, precision = whole(found.meta, "d", 1), found.meta["precision"]
            if precision not in get_args(Precision):
                raise ValueError(f"precision is {precision!r}")
            tree, config = LabelTree.load(found.part("tree", TREE_FORMAT)), read_config(found.path / "config.json")
            check_classifiers(shapes_of(found.path / "classifiers.safetensors"), tree, config.taps, d, joined=False)
            encoder = OnnxEncoder(found.path / ENCODER, len(config.taps), d)
            network = OnnxNetwork(encoder, tree, config, d)
            load_weights(network, found.path / "classifiers.safetensors")
        except (OSError, *UNFIT) as error:
            raise FormatError(
                f"{found.path} does not hold an exported cascade whose parts fit ({told(error)})."
            ) from None
        max_length = max_length_of(found)
        tokenizer = load_packed_tokenizer(found.path / "tokenizer", max_length, None)
        check_runs(encoder.vectors, found.path, max_length, tokenizer, network.device)
        return cls(network.eval(), tokenizer, max_length, batch_size, precision)


def meta_of(L: int, max_length: int, d: int, precision: Precision) -> dict[str, int | str]:
    """What the bundle's manifest tells."""
    return {"L": L, "max_length": max_length, "d": d, "precision": precision}


def write_classifiers(network: nn.Module, config: ModelConfig, tree: LabelTree, folder: Path) -> None:
    """Write the classifiers of a network, its configuration and its tree to a bundle that is being made."""
    rows = {name: value.cpu().contiguous() for name, value in network.state_dict().items() if name.startswith(HEADS)}
    save_file(rows, folder / "classifiers.safetensors")
    write_config(config, folder / "config.json")
    tree.save(folder / "tree")
