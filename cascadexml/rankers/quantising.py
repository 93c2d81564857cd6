"""An ONNX graph in int8: the weights of its linear layers are rounded column by column, their inputs token by token.

ONNX Runtime's own dynamic quantisation takes one scale for all numbers of a layer's input: a text's labels would hang
on the texts, and on the padding, of its batch, and one large number in one token would make all others coarse. With a
scale a token, found while it runs, neither is so. Products of whole numbers are exact.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cascadexml.rankers.cascade.onnx_encoder import onnx_packages

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

TOP = 127
"""The largest whole number that a weight or an input is rounded to."""


def quantised(data: bytes) -> bytes:
    """An ONNX file whose products by a matrix of weights are those of whole numbers of 8 bits.

    Other operators, the embeddings and the biases among them, stay in float32.

    Args:
        data: an ONNX file in float32.

    Raises:
        ConfigError: onnx or onnxruntime is not installed.
    """
    onnx, _ = onnx_packages()
    model = onnx.load_model_from_string(data)
    graph: GraphProto = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    rounding = _Rounding(onnx)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            W = onnx.numpy_helper.to_array(weights[node.input[1]])
            nodes += rounding.product(node.input[0], W, node.output[0])
        else:
            nodes.append(node)
    # Copies, since clearing a list frees what stands in it.
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    read = {name for node in nodes for name in node.input}
    tensors = [
        onnx.TensorProto.FromString(tensor.SerializeToString())
        for tensor in (*graph.initializer, *rounding.tensors)
        if tensor.name in read
    ]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)
    content: bytes = model.SerializeToString()
    return content


class _Rounding:
    """Writes the nodes of rounded products; what several weights multiply (queries, keys, values) is rounded once.

    An input's token x becomes 128 + round(127 x / max|x|): unsigned, since on x86 ONNX Runtime multiplies unsigned by
    signed whole numbers several times faster than signed ones. A column w of the weights becomes round(127 w / max|w|).
    """

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.seen: set[str] = set()
        number = onnx.numpy_helper.from_array
        self.tensors: list[TensorProto] = [
            number(np.float32(1), "rounding_one"),
            number(np.float32(1 / TOP), "rounding_step"),
            number(np.uint8(TOP + 1), "rounding_zero"),
            number(np.finfo(np.float32).tiny * TOP, "rounding_least"),
        ]

    def product(self, x: str, W: npt.NDArray[np.float32], y: str) -> "list[NodeProto]":
        """The nodes of y = x W, for W (inputs, outputs)."""
        node = self.onnx.helper.make_node
        columns = np.maximum(np.abs(W).max(axis=0), np.finfo(np.float32).tiny * TOP)
        self._keep(np.rint(W / columns * TOP).astype(np.int8), f"{y}_weights")
        self._keep((columns / TOP**2).astype(np.float32), f"{y}_columns")
        # First by the tokens' scales: with both in one factor, ONNX Runtime 1.32 fuses these nodes to a wrong product.
        return [
            *self._rounded(x),
            node("MatMulInteger", [f"{x}_rounded", f"{y}_weights", "rounding_zero"], [f"{y}_whole"]),
            node("Cast", [f"{y}_whole"], [f"{y}_cast"], to=self.onnx.TensorProto.FLOAT),
            node("Mul", [f"{y}_cast", f"{x}_largest"], [f"{y}_scaled"]),
            node("Mul", [f"{y}_scaled", f"{y}_columns"], [y]),
        ]

    def _rounded(self, x: str) -> "list[NodeProto]":
        """The nodes of x's tokens, rounded, and of the largest number of each; none where they are there already."""
        if x in self.seen:
            return []
        self.seen.add(x)
        node = self.onnx.helper.make_node
        return [
            node("ReduceMax", [x], [f"{x}_highest"], axes=[-1], keepdims=1),
            node("ReduceMin", [x], [f"{x}_lowest"], axes=[-1], keepdims=1),
            node("Neg", [f"{x}_lowest"], [f"{x}_depth"]),
            node("Max", [f"{x}_highest", f"{x}_depth", "rounding_least"], [f"{x}_largest"]),
            node("Div", ["rounding_one", f"{x}_largest"], [f"{x}_inverse"]),
            node("Mul", [x, f"{x}_inverse"], [f"{x}_unit"]),
            node("QuantizeLinear", [f"{x}_unit", "rounding_step", "rounding_zero"], [f"{x}_rounded"]),
        ]

    def _keep(self, values: npt.NDArray[Any], name: str) -> None:
        self.tensors.append(self.onnx.numpy_helper.from_array(values, name))
