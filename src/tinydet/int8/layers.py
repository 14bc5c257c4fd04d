"""Which nodes of an exported graph are quantized, and the graph with a chosen part of them in int8.

Convolutions and matrix products with constant weights become int8; what follows them (box decoding, NMS, RoIAlign)
stays float. onnxruntime's own quantizer writes the nodes: each quantized tensor passes through QuantizeLinear and
DequantizeLinear, which an engine fuses with what stands between into int8 kernels.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnxruntime.quantization import QDQQuantizer, QuantType
from onnxruntime.quantization.onnx_model import ONNXModel

from tinydet.export.modules import has_shared_values
from tinydet.int8.folded_weights import compute_weights, store_folded_small

WEIGHTED = ("Conv", "Gemm", "MatMul")
ACTIVATIONS = ("Relu", "Clip")
WeightBits = Literal[7, 8]


@dataclass(frozen=True)
class Layer:
    """A layer that can be quantized.

    Attributes:
        name: of the layer in the checkpoint.
        nodes, weight: names in the graph: of its constant weight, and of the nodes with it, one a map of a pyramid.
        weights: entries of that weight as the checkpoint has it.
        shared: the weight is a codebook's; one scale for all of it keeps its few values few.
    """

    name: str
    nodes: tuple[str, ...]
    weight: str
    weights: int
    shared: bool = False


@dataclass(frozen=True, eq=False)
class QuantizableModel:
    """An exported float graph, ready to be quantized: its shapes inferred, the weight of every layer an initializer."""

    model: onnx.ModelProto
    layers: tuple[Layer, ...]


def quantizable(model: onnx.ModelProto) -> QuantizableModel:
    """Find the layers of an exported graph.

    Raises:
        ValueError: it has none.
    """
    model = copy.deepcopy(model)
    made_of = compute_weights(model, WEIGHTED)
    model = onnx.shape_inference.infer_shapes(model)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in initializers:
            nodes.setdefault(node.input[1], []).append(node.name)
    layers = []
    for weight, names in nodes.items():
        tensor = initializers[weight]
        source, weights = made_of.get(weight, (weight, prod(tensor.dims)))
        shared = has_shared_values(torch.from_numpy(np.array(numpy_helper.to_array(tensor))))
        layers.append(Layer(source.removesuffix(".weight"), tuple(names), weight, weights, shared))
    if not layers:
        raise ValueError("the graph has neither a convolution nor a matrix product with constant weights")
    return QuantizableModel(model, tuple(layers))


def quantized(
    source: QuantizableModel, ranges: Any, kept_in_float: Collection[str] = (), weight_bits: WeightBits = 8
) -> onnx.ModelProto:
    """The graph with all layers in int8 but those named.

    Weights are symmetric, so that zeros stay exact zeros, with a scale for each output channel; activations are uint8
    in the calibrated ranges, biases int32.

    Args:
        ranges: of `tinydet.int8.calibration.calibrate`.
        kept_in_float: names of layers.
        weight_bits: 7 leaves the largest magnitudes out: processors without VNNI instructions add two products in 16
            bits, which 8-bit weights may overflow.
    """
    chosen = [layer for layer in source.layers if layer.name not in kept_in_float]
    model = copy.deepcopy(source.model)
    if chosen:
        names = {node for layer in chosen for node in layer.nodes}
        one_scale = {"quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": weight_bits == 7}
        with _quiet():
            model = QDQQuantizer(
                model,
                per_channel=True,
                reduce_range=weight_bits == 7,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=ranges,
                nodes_to_quantize=[*names, *_joined_nodes(model, names)],
                nodes_to_exclude=[],
                op_types_to_quantize=[*WEIGHTED, *ACTIVATIONS, "Add"],
                extra_options={
                    "WeightSymmetric": True,
                    "ActivationSymmetric": False,
                    "TensorQuantOverrides": {layer.weight: [one_scale] for layer in chosen if layer.shared},
                },
            ).quantize_model()
    store_folded_small(model)
    ordered = ONNXModel(model)
    ordered.topological_sort()
    model = ordered.model
    del model.graph.value_info[:]
    onnx.checker.check_model(model)
    return model


def _joined_nodes(model: onnx.ModelProto, chosen: set[str]) -> list[str]:
    """What an engine computes together with the chosen nodes, for which no other tensor need be quantized.

    A ReLU after a convolution becomes the lower end of the output's range. An addition whose terms and whose sum, after
    its ReLU, are quantized anyway is done in int8.
    """
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    inputs = {node.input[0] for node in model.graph.node if node.name in chosen}
    outputs = set()
    joined = []
    for node in model.graph.node:  # in the order of computation
        after = consumers.get(node.output[0], []) if node.output else []
        activation = after[0] if len(after) == 1 and after[0].op_type in ACTIVATIONS else None
        if node.name in chosen:
            outputs.add(node.output[0] if activation is None else activation.output[0])
            joined += [] if activation is None else [activation.name]
        elif (
            node.op_type == "Add"
            and activation is not None
            and activation.output[0] in inputs
            and all(name in inputs | outputs for name in node.input)
        ):
            joined += [node.name, activation.name]
    return joined


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's advice to optimize the graph first, which exported graphs do not need."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)
