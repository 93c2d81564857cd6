"""An encoder as one ONNX file: what may stand in such a file, and running it on the CPU by ONNX Runtime.

The graph goes from tokens to each resolution's vectors. It is data: standard operators without loops or branches and
tensors that lie in the file itself, each looked at before ONNX Runtime sees the file.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cascadexml.device import is_out_of_memory
from cascadexml.errors import ConfigError, FormatError
from cascadexml.rankers.cascade.network import told

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

INPUTS = ("input_ids", "attention_mask")
DOMAINS = {"", "ai.onnx"}
"""Of operators: ONNX's own."""


class OnnxEncoder:
    """An encoder that ONNX Runtime runs, on as many threads as torch has when it is read.

    Args:
        file: what `cascadexml.rankers.exporting` wrote.
        R: resolutions.
        d: size of their vectors.

    Raises:
        ConfigError: onnxruntime or onnx is not installed.
        FormatError: the file holds no such encoder, or what ONNX alone does not define.
    """

    def __init__(self, file: Path, R: int, d: int) -> None:
        _, runtime = onnx_packages()
        self.file = file
        data = file.read_bytes()
        check_graph(data, file)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that spin while they wait for the next text take the cores that torch's classifiers run on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # What goes wrong is raised; a warning on stderr would say nothing to who predicts.
        options.log_severity_level = 3
        # From the bytes that were looked at: whoever changes the file meanwhile changes nothing here.
        try:
            self.session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            self._check(R, d)
        # Its errors have no common class but Exception.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise _foreign(file, told(error)) from None

    def vectors(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """Each resolution's (B, d) vectors, from (B, T) tokens and their mask on the CPU."""
        tokens = zip(INPUTS, (input_ids.numpy(), attention_mask.numpy()), strict=True)
        try:
            found = self.session.run(None, dict(tokens))
        # Its errors have no common class but Exception.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise _foreign(self.file, told(error)) from None
        return [torch.from_numpy(vectors) for vectors in found]

    def _check(self, R: int, d: int) -> None:
        """Refuse, by a ValueError, a graph that does not go from tokens to the vectors of R resolutions."""
        takes = {value.name: (value.type, len(value.shape)) for value in self.session.get_inputs()}
        gives = [value.name for value in self.session.get_outputs()]
        if takes != dict.fromkeys(INPUTS, ("tensor(int64)", 2)) or gives != output_names(R):
            raise ValueError(f"it goes from {', '.join(takes)} to {', '.join(gives)}")
        for B, T in ((1, 1), (2, 3)):
            ids = torch.zeros(B, T, dtype=torch.int64)
            for vectors in self.vectors(ids, torch.ones_like(ids)):
                if vectors.shape != (B, d) or vectors.dtype != torch.float32:
                    raise ValueError(f"it gives {vectors.dtype} of {tuple(vectors.shape)}, expected float32 of {B, d}")


def output_names(R: int) -> list[str]:
    """What the graph calls the vectors of R resolutions, coarse to fine."""
    return [f"resolution_{r}" for r in range(R)]


def onnx_packages() -> tuple[Any, Any]:
    """The packages onnx and onnxruntime.

    Raises:
        ConfigError: one is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f'a model in ONNX needs {error.name}: pip install "cascadexml[onnx]".') from None
    return onnx, onnxruntime


def check_graph(data: bytes, file: Path) -> None:
    """Refuse an ONNX file that holds anything but standard operators in a row and whole tensors of its own.

    Args:
        data: the file's content.
        file: what messages call it.

    Raises:
        ConfigError: onnx is not installed.
        FormatError: it is no ONNX file, names operators of others, functions, loops or branches, points to another
            file, or a tensor's bytes do not fit its shape or are no numbers.
    """
    onnx, _ = onnx_packages()
    try:
        model: ModelProto = onnx.load_model_from_string(data)
        _check_operators(model)
        for tensor in _tensors(model):
            _check_tensor(tensor)
    # Protobuf's errors derive from Exception alone.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise _foreign(file, told(error)) from None


def _check_operators(model: "ModelProto") -> None:
    graph = model.graph
    domains = {opset.domain for opset in model.opset_import} | {node.domain for node in graph.node}
    if domains - DOMAINS:
        raise ValueError(f"it names operators of {', '.join(sorted(domains - DOMAINS))}")
    if model.functions or model.training_info or graph.sparse_initializer:
        raise ValueError("it holds functions, a training or sparse tensors")
    for attribute in _attributes(graph.node):
        if attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor"):
            raise ValueError(f"{attribute.name} is a loop, a branch or a sparse tensor")


def _attributes(nodes: "Iterable[NodeProto]") -> "Iterator[AttributeProto]":
    return (attribute for node in nodes for attribute in node.attribute)


def _tensors(model: "ModelProto") -> "Iterator[TensorProto]":
    yield from model.graph.initializer
    for attribute in _attributes(model.graph.node):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _check_tensor(tensor: "TensorProto") -> None:
    onnx, _ = onnx_packages()
    # Before its values are asked for, which would be read from wherever it points to.
    if tensor.external_data or tensor.data_location != onnx.TensorProto.DEFAULT:
        raise ValueError(f"{tensor.name} points to another file")
    if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > tensor.ByteSize():
        raise ValueError(f"{tensor.name} claims {list(tensor.dims)} numbers and holds {tensor.ByteSize()} bytes")
    values = onnx.numpy_helper.to_array(tensor)
    # A single one may be infinite: it is what a mask adds to the logits of padding.
    if values.dtype.kind == "f" and (np.isnan(values).any() or (values.size > 1 and np.isinf(values).any())):
        raise ValueError(f"{tensor.name} holds a number that is NaN or infinite")


def _foreign(file: Path, reason: str) -> FormatError:
    return FormatError(
        f"{file} is no encoder that cascadexml export wrote ({reason}): export or fetch the model again."
    )
