from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from tinydet.int8.calibration import calibrate
from tinydet.int8.layers import quantizable, quantized


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: Any = session.run(None, {"image": image[None]})
    return found[0]


def test_layers_have_the_checkpoints_names(model):
    assert [layer.name for layer in quantizable(model).layers] == ["first", "second", "third", "score"]


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (7, 64)])
def test_weights_are_the_rounded_ones_of_the_equation(model, images, bits, largest):
    """Symmetric, a scale for each output channel, in float64: Jacob et al. 2018, Section 3, with zero point 0."""
    source = quantizable(model)
    stored = arrays(quantized(source, calibrate(source.model, images), (), bits))
    for name in ("first", "second", "third", "score"):
        weight = arrays(model)[f"{name}.weight"].astype(np.float64)
        codes, scale = stored[f"{name}.weight_quantized"], stored[f"{name}.weight_scale"]
        assert codes.dtype == np.int8
        assert np.abs(codes.astype(int)).max() <= largest
        assert not stored[f"{name}.weight_zero_point"].any()
        flat = weight.reshape(len(weight), -1)
        np.testing.assert_allclose(scale, np.abs(flat).max(axis=1) / largest, rtol=0.02)
        again = codes.reshape(len(weight), -1) * scale[:, None].astype(np.float64)
        assert (np.abs(again - flat) <= scale[:, None] * 0.5001).all()


def test_the_quantized_graph_computes_nearly_the_same(model, images):
    source = quantizable(model)
    ranges = calibrate(source.model, images)
    spread = np.ptp([run(model, image) for image in images])
    for bits, allowed in ((8, 0.03), (7, 0.05)):
        small = quantized(source, ranges, (), bits)
        for image in images:
            assert np.abs(run(small, image) - run(model, image)).max() <= allowed * spread


def test_residual_sums_and_relus_are_part_of_the_int8_layers(model, images):
    """The sum feeds the mean alone, so it stays float here; with a convolution after it, it would be int8."""
    source = quantizable(model)
    kinds = [node.op_type for node in quantized(source, calibrate(source.model, images)).graph.node]
    assert kinds.count("Relu") == 1
    longer = _with_convolution_after_the_sum(model)
    source = quantizable(longer)
    small = quantized(source, calibrate(source.model, images))
    assert [node.op_type for node in small.graph.node].count("Relu") == 0
    produced = {name: node.op_type for node in small.graph.node for name in node.output}
    (add,) = [node for node in small.graph.node if node.op_type == "Add"]
    assert [produced[name] for name in add.input] == ["DequantizeLinear"] * 2
    np.testing.assert_allclose(
        run(small, images[0]), run(longer, images[0]), atol=0.05 * np.ptp(run(longer, images[0]))
    )


def _with_convolution_after_the_sum(model: onnx.ModelProto) -> onnx.ModelProto:
    longer = onnx.ModelProto()
    longer.CopyFrom(model)
    weight = np.random.default_rng(5).normal(0, 0.3, (8, 8, 1, 1)).astype(np.float32)
    longer.graph.initializer.append(numpy_helper.from_array(weight, "last.weight"))
    (mean,) = [node for node in longer.graph.node if node.name == "mean"]
    mean.input[0] = "h"
    place = list(longer.graph.node).index(mean)
    longer.graph.node.insert(place, helper.make_node("Conv", ["g", "last.weight"], ["h"], name="last_node"))
    return longer


def test_what_is_kept_in_float_is_kept_bit_for_bit(model, images):
    source = quantizable(model)
    ranges = calibrate(source.model, images)
    stored = arrays(quantized(source, ranges, ("second", "score")))
    for name in ("second.weight", "score.weight", "second.bias"):
        assert stored[name].tobytes() == arrays(model)[name].tobytes()
    assert {"first.weight_quantized", "third.weight_quantized"} <= set(stored)
    everything = ("first", "second", "third", "score")
    np.testing.assert_array_equal(run(quantized(source, ranges, everything), images[0]), run(model, images[0]))


def test_zeros_of_a_pruned_layer_stay_zeros(model, images):
    pruned = onnx.ModelProto()
    pruned.CopyFrom(model)
    for tensor in pruned.graph.initializer:
        if tensor.name == "second.weight":
            weight = numpy_helper.to_array(tensor).copy()
            zero = np.random.default_rng(2).random(weight.shape) < 0.6
            weight[zero] = 0
            weight[3] = 0  # a whole channel
            tensor.CopyFrom(numpy_helper.from_array(weight, "second.weight"))
    source = quantizable(pruned)
    codes = arrays(quantized(source, calibrate(source.model, images)))["second.weight_quantized"]
    assert not codes[weight == 0].any()
    assert codes[np.abs(weight) > np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 10].all()


def test_a_codebooks_few_values_stay_few(model, images):
    shared = onnx.ModelProto()
    shared.CopyFrom(model)
    codebook = np.array([-0.6, -0.25, -0.1, 0.12, 0.3, 0.55], np.float32)
    random = np.random.default_rng(3)
    weight = codebook[random.integers(0, 6, (160, 8, 3, 3))]
    third = random.normal(0, 0.1, (8, 160, 1, 1))
    for tensor in shared.graph.initializer:
        if tensor.name in ("second.weight", "second.bias", "third.weight"):
            value = {"second.weight": weight, "second.bias": np.zeros(160), "third.weight": third}
            tensor.CopyFrom(numpy_helper.from_array(value[tensor.name].astype(np.float32), tensor.name))
    source = quantizable(shared)
    assert [layer.name for layer in source.layers if layer.shared] == ["second"]
    codes = arrays(quantized(source, calibrate(source.model, images)))["second.weight_quantized"]
    assert len(np.unique(codes)) == 6


def test_a_graph_without_layers_is_refused():
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="r")], "g", [value], [out])
    with pytest.raises(ValueError, match="neither a convolution"):
        quantizable(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
