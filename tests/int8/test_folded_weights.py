from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tinydet.int8.folded_weights import compute_weights, store_folded_small
from tinydet.int8.layers import quantizable


@pytest.fixture(scope="module")
def stem() -> tuple[onnx.ModelProto, np.ndarray]:
    """The graph of an exported ResNet's first convolution, and that convolution's weight divided by the deviation."""
    from onnx import TensorProto

    from tinydet.export.graph import GraphBuilder, value
    from tinydet.export.modules import export_module
    from tinydet.export.stem import include_trunk, pixels_of
    from tinydet.preprocessing import Preprocessing

    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 5, 1))
    graph = GraphBuilder()
    image = graph.name("image")
    preprocessing = Preprocessing()
    model = export_module(trunk, torch.rand(1, 3, 64, 96), (2, 3))
    (out,) = include_trunk(graph, pixels_of(graph, image, preprocessing), preprocessing, model)
    graph.op("Identity", out, named="out")
    whole = graph.model(
        [value("image", TensorProto.UINT8, [1, "height", "width", 3])],
        [value("out", TensorProto.FLOAT, [1, 5, "rows", "columns"])],
        {},
    )
    weight = trunk[0].weight.detach().numpy() / np.array(preprocessing.std, np.float32).reshape(1, 3, 1, 1)
    return whole, weight


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": image})[0])


def test_a_folded_stem_is_one_layer_and_is_stored_once(stem):
    from tinydet.int8.calibration import calibrate
    from tinydet.int8.layers import quantized

    model, weight = stem
    source = quantizable(model)
    assert [(layer.name, layer.weights) for layer in source.layers] == [("0", 4 * 3 * 7 * 7), ("3", 20)]
    image = np.random.default_rng(0).integers(0, 256, (1, 45, 62, 3)).astype(np.uint8)
    np.testing.assert_allclose(run(source.model, image), run(model, image), atol=1e-5)
    small = quantized(source, calibrate(source.model, [image[0]]), (), 8)
    kernels = [numpy_helper.to_array(t) for t in small.graph.initializer if t.name.endswith(".kernel")]
    assert [(kernel.shape, kernel.dtype) for kernel in kernels] == [((4, 3, 7, 7), np.int8)]
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
    assert np.abs(kernels[0] - weight / scale).max() <= 0.51
    found, expected = run(small, image), run(model, image)
    assert np.abs(found - expected).max() <= 0.05 * np.ptp(expected)


def test_kept_in_float_it_is_stored_once_too(stem):
    from tinydet.int8.layers import quantized

    model, weight = stem
    source = quantizable(model)
    kept = quantized(source, None, ("0", "3"))
    (kernel,) = [numpy_helper.to_array(t) for t in kept.graph.initializer if t.name.endswith(".kernel")]
    np.testing.assert_allclose(kernel, weight, rtol=1e-6)


def test_graphs_without_computed_weights_are_left_alone(model):
    before = model.SerializeToString()
    assert compute_weights(model, ("Conv", "Gemm", "MatMul")) == {}
    store_folded_small(model)
    assert model.SerializeToString() == before
