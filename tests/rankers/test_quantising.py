"""A product of rounded numbers, as ONNX Runtime computes it, against the same by NumPy."""

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cascadexml.rankers.quantising import quantised

Float32 = npt.NDArray[np.float32]


def two_products(V: Float32, W: Float32) -> onnx.ModelProto:
    """A graph x → x V, x W, for x (B, T, d)."""
    nodes = [helper.make_node("MatMul", ["x", name], [f"x{name}"]) for name in "VW"]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", "T", None]) for name in ("x", "xV", "xW")]
    weights = [numpy_helper.from_array(V, "V"), numpy_helper.from_array(W, "W")]
    graph = helper.make_graph(nodes, "products", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(data: bytes, x: Float32) -> list[Float32]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(None, {"x": x})]


@pytest.fixture(scope="module")
def weights() -> tuple[Float32, Float32]:
    random = np.random.default_rng(0)
    V, W = (random.normal(size=(48, n)).astype(np.float32) for n in (7, 130))
    W[:, 3] = 0
    W[:, 4] *= 1000
    return V, W


@pytest.fixture(scope="module")
def data(weights: tuple[Float32, Float32]) -> bytes:
    return quantised(two_products(*weights).SerializeToString())


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (5, 3), (64, 48)])
def test_it_is_the_product_of_rounded_numbers(
    data: bytes, weights: tuple[Float32, Float32], shape: tuple[int, int]
) -> None:
    x = np.random.default_rng(1).normal(size=(*shape, 48)).astype(np.float32)
    x[0, 0] *= 500
    x[-1, -1] = 0 if shape != (1, 1) else x[-1, -1]
    for W, found in zip(weights, run(data, x), strict=True):
        largest, columns = np.abs(x).max(-1, keepdims=True), np.abs(W).max(0)
        steps, rounded = np.where(largest == 0, 1, largest) / 127, np.where(columns == 0, 1, columns) / 127
        expected = (np.rint(x / steps) @ np.rint(W / rounded)) * steps * rounded
        size = steps * rounded * 127
        # A number between two whole ones may be rounded either way, which moves a product by a weight's step.
        assert np.mean(np.abs(found - expected) <= 1e-3 * size) > 0.99
        assert (np.abs(found - expected) <= 1.01 * size).all()
        assert (found[np.broadcast_to(largest == 0, found.shape)] == 0).all()


def test_a_token_is_rounded_by_itself(data: bytes) -> None:
    x = np.random.default_rng(2).normal(size=(4, 6, 48)).astype(np.float32)
    x[2] *= 1e4
    together = run(data, x)
    for i in range(4):
        for one, all_ in zip(run(data, x[i : i + 1, :3]), together, strict=True):
            np.testing.assert_array_equal(one[0], all_[i, :3])


def test_what_is_shared_is_rounded_once_and_weights_take_a_quarter(
    data: bytes, weights: tuple[Float32, Float32]
) -> None:
    graph = onnx.load_model_from_string(data).graph
    kinds = [node.op_type for node in graph.node]
    assert (kinds.count("QuantizeLinear"), kinds.count("MatMulInteger"), kinds.count("MatMul")) == (1, 2, 0)
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert {array.dtype for name, array in kept.items() if name.endswith("_weights")} == {np.dtype(np.int8)}
    assert not {"V", "W"} & set(kept)
