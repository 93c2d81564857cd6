"""What is stored of a network, looked at before anything is built of it: sizes that its weights' file justifies.

An encoder's configuration says in a few bytes how large it is. So the shapes in the head of the safetensors file, which
is as large as they say, are read first, and the configuration must lead to the same.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from transformers import CONFIG_MAPPING, PretrainedConfig

from cascadexml.checked_json import object_of, read_json, shown, text_of
from cascadexml.labels.tree import LabelTree
from cascadexml.rankers.cascade.encoder import transformer_from_config
from cascadexml.rankers.cascade.positives import children_of_levels

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor → its shape."""

PREFIX = "encoder."
KEPT = {"gradient_checkpointing", "position_embedding_type", "output_attentions"}
"""Keys that no class of transformers has as a field any more, and that files of encoders still have."""
_REACHING = re.compile("backbone|pretrained|implementation|kernel|quantiz|remote|auto_map|adapter|_path|_file")
"""Keys by which an encoder would take code or weights from elsewhere."""
_REPEATED = re.compile("layers|blocks|groups|group_num|block_sizes|depths|experts|repeats")
"""Keys that say how often a part is built."""
FEW, MANY = 128, 2**20
"""Parts that are built for any weights, as some share theirs; numbers that any weights allow, such as a token's id."""
TABLES = 2**24
"""Numbers that an encoder may hold besides its weights, such as those of positions, however few weights it has."""
_UNBUILT = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, StrictDataclassError)
"""What building an encoder of wrong values raises, besides what is raised for parts that do not fit."""


def shapes_of(file: Path) -> Shapes:
    """The shapes of all tensors in a safetensors file; none of them is read.

    Raises:
        OSError, SafetensorError: it cannot be read as such a file.
    """
    with safe_open(file, framework="numpy") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def read_encoder_config(file: Path, shapes: Shapes) -> PretrainedConfig:
    """An encoder's configuration from the JSON that `CascadeXML.save` wrote, which builds what the weights are of.

    Only what the configurations of its type have as fields is read of it: all other keys are passed over.

    Args:
        file: encoder.json.
        shapes: of the network's weights.

    Raises:
        EncoderError, OSError, TypeError, ValueError: it is none, or leads to other weights.
    """
    fields = object_of(read_json(file))
    kind = text_of(fields, "model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"{file.name}: model_type is {shown(kind)}, which transformers does not know")
    config_class = CONFIG_MAPPING[kind]
    if config_class.sub_configs:
        raise ValueError(f"{file.name}: model_type is {kind!r}, which is made of several models")
    known = {each.name for each in dataclasses.fields(config_class)} | {*config_class.attribute_map} | KEPT
    kept = {key: value for key, value in fields.items() if key in known and not _REACHING.search(key)}
    ours = {name: shape for name, shape in shapes.items() if name.startswith(PREFIX)}
    _check_values(kept, file, ours)
    try:
        config: PretrainedConfig = config_class(**kept)
        # On the device of no memory: what is too large takes none.
        with torch.device("meta"):
            encoder = transformer_from_config(config)
    except _UNBUILT as error:
        raise ValueError(f"{file.name} is no configuration of an encoder ({error!r})") from None
    tables, held = sum(each.numel() for each in encoder.buffers()), sum(map(math.prod, ours.values()))
    if tables > max(TABLES, held):
        raise ValueError(f"{file.name} leads to tables of {tables} numbers beside {held} weights")
    for name, tensor in encoder.state_dict().items():
        if ours.get(PREFIX + name) != tuple(tensor.shape):
            raise ValueError(
                f"{file.name} leads to {name} of {tuple(tensor.shape)}, the weights hold {ours.get(PREFIX + name)}"
            )
    return config


def check_classifiers(shapes: Shapes, tree: LabelTree, taps: Sequence[Sequence[int]], d: int, joined: bool) -> None:
    """Refuse weights that are too few for a tree's classifiers, before memory is taken for these.

    Args:
        shapes: of the network's weights.
        tree: whose largest cluster decides how many slots each has.
        taps: as of `ModelConfig`.
        d: size of the vectors.
        joined: the joins of several layers are among the weights.

    Raises:
        ValueError: they are too few, or of other resolutions.
    """
    children = children_of_levels(tree)
    if len(children) != len(taps):
        raise ValueError(f"the tree has {len(children)} resolutions, the network reads {len(taps)}")
    for r, (counts, layers) in enumerate(zip(children, taps, strict=True)):
        # How a head keeps its rows is known in `heads` alone: here only how many numbers they are at least.
        wanted = {f"_heads.{r}.": counts.size * int(counts.max()) * d}
        if joined and len(layers) > 1:
            wanted[f"joins.{r}."] = len(layers) * d * d
        for prefix, least in wanted.items():
            held = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix))
            if held < least:
                raise ValueError(f"the weights hold {held} numbers of {prefix}, tree and settings lead to {least}")


def _check_values(fields: Mapping[str, Any], file: Path, shapes: Shapes) -> None:
    """Refuse numbers beyond what the weights allow, and values that change what an encoder gives."""
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    for key, value in fields.items():
        most = max(len(shapes), FEW) if _REPEATED.search(key) else max(largest, MANY)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, int) and not isinstance(each, bool) and abs(each) > most:
                raise ValueError(f"{file.name}: {key} is {shown(each)}, and the weights allow {most}")
    if fields.get("return_dict", True) is not True:
        raise ValueError(f"{file.name}: return_dict is {shown(fields['return_dict'])}, expected true")
    if fields.get("dtype") not in (None, "float32"):
        raise ValueError(f"{file.name}: dtype is {shown(fields['dtype'])}, expected float32")
