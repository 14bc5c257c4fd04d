"""A small graph of the kinds of layers that detectors have, and one tiny detector of each kind."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture(scope="session")
def zoo() -> ModuleType:
    path = Path(__file__).parents[1] / "prune" / "tiny_detectors.py"
    spec = spec_from_file_location("tiny_detectors", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["tiny_detectors"] = module
    spec.loader.exec_module(module)
    return module


def residual_graph(seed: int = 0) -> onnx.ModelProto:
    """`image` `[1, H, W, 3]` uint8 -> first -> (second -> third, + skip) -> ReLU -> mean -> score: `[1, 5]`."""
    random = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = random.normal(0, 0.3, shape) * random.uniform(0.05, 2, (shape[0], *[1] * (len(shape) - 1)))
        return numpy_helper.from_array(values.astype(np.float32), name)

    weights = [
        weight("first.weight", 8, 3, 3, 3),
        weight("first.bias", 8),
        weight("second.weight", 8, 8, 3, 3),
        weight("second.bias", 8),
        weight("third.weight", 8, 8, 1, 1),
        weight("third.bias", 8),
        weight("score.weight", 5, 8),
        weight("score.bias", 5),
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
        numpy_helper.from_array(np.float32(255), "largest"),
    ]

    def conv(layer: str, x: str, out: str, pad: int) -> onnx.NodeProto:
        return helper.make_node(
            "Conv", [x, f"{layer}.weight", f"{layer}.bias"], [out], name=f"{layer}_node", pads=[pad] * 4
        )

    nodes = [
        helper.make_node("Cast", ["image"], ["float"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["chw"], name="transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["chw", "largest"], ["x"], name="div"),
        conv("first", "x", "a", 1),
        helper.make_node("Relu", ["a"], ["b"], name="relu_first"),
        conv("second", "b", "c", 1),
        helper.make_node("Relu", ["c"], ["d"], name="relu_second"),
        conv("third", "d", "e", 0),
        helper.make_node("Add", ["e", "b"], ["f"], name="add"),
        helper.make_node("Relu", ["f"], ["g"], name="relu_sum"),
        helper.make_node("ReduceMean", ["g", "axes"], ["pooled"], name="mean", keepdims=0),
        helper.make_node("Gemm", ["pooled", "score.weight", "score.bias"], ["scores"], name="score_node", transB=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "height", "width", 3])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 5])
    graph = helper.make_graph(nodes, "g", [image], [scores], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def model() -> onnx.ModelProto:
    return residual_graph()


@pytest.fixture
def images() -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, 256, (12 + i, 16, 3)).astype(np.uint8) for i in range(4)]
