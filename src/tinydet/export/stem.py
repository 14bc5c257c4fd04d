"""The first nodes: 8-bit pixels to the first feature map, in few passes over the image.

The network's first layers see the most pixels with the fewest channels, where engines are at their worst: they compute
8 or 16 channels at once, and a tiny network has 4. So a ResNet's stem is written in another, equal form; see
`_folded_stem`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tinydet.export.graph import FLOAT, GraphBuilder
from tinydet.preprocessing import Preprocessing

PIXELS = "pixels"
_MOST_FOLDED_CHANNELS = 4


def pixels_of(graph: GraphBuilder, image: str, preprocessing: Preprocessing) -> str:
    """`[1, H, W, C]` uint8 to `[1, C, H, W]` float32 less the mean; all that follows sees the image through this value.

    The mean goes while a pixel's channels still lie side by side: an image that is to be enlarged is then still small,
    and OpenVINO, whose convolutions take that order, drops the transposition. A row is one axis of W * C values,
    because engines are slow where the innermost axis has three.

    A runtime may put a Resize here, see `tinydet.runtime.resizing`.
    """
    width = graph.op("Shape", image, start=2, end=3)
    mean = graph.op("Tile", graph.constant(np.array(preprocessing.mean, np.float32)), width)
    rows = graph.op("Reshape", graph.op("Cast", image, to=FLOAT), graph.constant([0, 0, -1]))
    shape = graph.constant([0, 0, -1, preprocessing.channel_count])
    centred = graph.op("Reshape", graph.op("Sub", rows, mean), shape)
    return graph.op("Transpose", centred, perm=[0, 3, 1, 2], named=PIXELS)


def include_trunk(graph: GraphBuilder, pixels: str, preprocessing: Preprocessing, trunk: onnx.ModelProto) -> list[str]:
    """Everything from `pixels_of` an image to the outputs of a trunk that takes a normalised image.

    The mean is subtracted already, because the first convolution must be padded with zeros; the deviation is divided
    out of that convolution's weights, which saves a pass over the image.
    """
    x = _padded(graph, pixels, preprocessing.size_divisor)
    source = trunk.graph.input[0].name
    convolution = _only_consumer(trunk, source, "Conv")
    if convolution is None:
        scaled = graph.op("Div", x, graph.constant(_by_channel(preprocessing.std)))
        return graph.include(trunk, {source: scaled})
    weight = graph.initializer(_initializer(trunk, convolution.input[1]))
    weight = graph.op("Div", weight, graph.constant(_by_channel(preprocessing.std)))
    stem = _resnet_stem(trunk, convolution)
    if stem is None:
        return graph.include(trunk, {source: x, convolution.input[1]: weight})
    biases = [graph.initializer(_initializer(trunk, name)) for name in convolution.input[2:]]
    return graph.include(trunk, {stem.pooled: _folded_stem(graph, x, weight, biases, stem)})


def _by_channel(values: tuple[float, ...]) -> Any:
    return np.array(values, np.float32).reshape(1, -1, 1, 1)


def _padded(graph: GraphBuilder, x: str, divisor: int) -> str:
    """`[1, C, H, W]` with zeros on the right and at the bottom up to multiples of `divisor`."""
    if divisor == 1:
        return x
    size = graph.op("Shape", x, start=2)
    multiple = graph.constant([divisor, divisor])
    missing = graph.op("Mod", graph.op("Sub", multiple, graph.op("Mod", size, multiple)), multiple)
    return graph.op("Pad", x, graph.op("Concat", graph.constant([0] * 6), missing, axis=0))


@dataclass(frozen=True)
class _Stem:
    """A convolution of stride 2, ReLU, and 3x3 max pooling of stride 2.

    Attributes:
        pooled: the name of the last one's output.
    """

    kernel: int
    padding: int
    channels: int
    pooled: str


def _resnet_stem(trunk: onnx.ModelProto, convolution: onnx.NodeProto) -> _Stem | None:
    relu = _only_consumer(trunk, convolution.output[0], "Relu")
    pool = relu and _only_consumer(trunk, relu.output[0], "MaxPool")
    weight = _initializer(trunk, convolution.input[1])
    if pool is None or weight.dims[0] > _MOST_FOLDED_CHANNELS:
        return None
    conv, pooling = _attributes(convolution), _attributes(pool)
    kernel, padding = weight.dims[2], conv["pads"][0]
    as_expected = (
        conv["strides"] == [2, 2]
        and conv["pads"] == [padding] * 4
        and weight.dims[3] == kernel == 2 * padding + 1
        and conv.get("group", 1) == 1
        and conv.get("dilations", [1, 1]) == [1, 1]
        and pooling["kernel_shape"] == [3, 3]
        and pooling["strides"] == [2, 2]
        and pooling["pads"] == [1] * 4
        and not pooling.get("ceil_mode", 0)
    )
    return _Stem(kernel, padding, weight.dims[0], pool.output[0]) if as_expected else None


def _folded_stem(graph: GraphBuilder, x: str, weight: str, biases: list[str], stem: _Stem) -> str:
    """The same stem with each 2x2 cells of the first map as four groups of channels of one cell.

    The convolution has the kernel at four places of a larger one, and stride 4. Pooling takes, for each cell of its
    output, the rows 2i - 1 to 2i + 1 of the map: both rows of cell i and the lower one of the cell above it, and
    columns likewise; so each group is pooled over its own one, two or four cells. The weights are put together by nodes
    without inputs, which an engine computes once when it loads the file.
    """
    places = [(row, column) for row in (0, 1) for column in (0, 1)]
    kernels = []
    for row, column in places:
        pads = [0, 0, 2 * row, 2 * column, 0, 0, 2 - 2 * row, 2 - 2 * column]
        kernels.append(graph.op("Pad", weight, graph.constant(pads)))
    before, after = stem.padding, stem.kernel + 1 - stem.padding
    folded = graph.op(
        "Conv",
        x,
        graph.op("Concat", *kernels, axis=0),
        *(graph.op("Concat", *[bias] * 4, axis=0) for bias in biases),
        kernel_shape=[stem.kernel + 2] * 2,
        strides=[4, 4],
        pads=[before, before, after, after],
    )
    folded = graph.op("Relu", folded)
    one, two = graph.constant([1, 1]), graph.constant([2, 2])
    map_hw = graph.op("Div", graph.op("Add", graph.op("Shape", x, start=2), one), two)
    pooled_hw = graph.op("Div", graph.op("Add", map_hw, one), two)
    whole_hw = graph.op("Div", map_hw, two)  # cells whose second row or column lies within the map
    axes = graph.constant([1, 2, 3])
    groups = []
    for group, (row, column) in enumerate(places):
        height = _row(graph, whole_hw if row else pooled_hw, 0)
        width = _row(graph, whole_hw if column else pooled_hw, 1)
        first, last = group * stem.channels, (group + 1) * stem.channels
        end = graph.op("Concat", graph.constant([last]), height, width, axis=0)
        cells = graph.op("Slice", folded, graph.constant([first, 0, 0]), end, axes)
        if row or column:
            pads = [row, column, row, column]
            cells = graph.op("MaxPool", cells, kernel_shape=[1 + row, 1 + column], pads=pads, strides=[1, 1])
            cells = graph.op("Slice", cells, graph.constant([0, 0]), pooled_hw, graph.constant([2, 3]))
        groups.append(cells)
    return graph.op("Max", *groups)


def _row(graph: GraphBuilder, values: str, index: int) -> str:
    return graph.op("Slice", values, graph.constant([index]), graph.constant([index + 1]))


def _only_consumer(model: onnx.ModelProto, name: str, kind: str) -> onnx.NodeProto | None:
    consumers = [node for node in model.graph.node if name in node.input]
    return consumers[0] if len(consumers) == 1 and consumers[0].op_type == kind else None


def _initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
