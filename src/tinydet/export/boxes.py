"""Box arithmetic as nodes. Boxes are float32 in pixels of the resized image."""

from __future__ import annotations

import math

from tinydet.detectors.box_coding import Weights
from tinydet.export.graph import FLOAT, GraphBuilder

LARGEST_LOG_SCALE = math.log(1000.0 / 16)
NEVER = -3e38
"""A score below every other."""


def limits_xy(graph: GraphBuilder, image: str) -> str:
    """`[2]` float32: width and height of `[1, H, W, C]` pixels."""
    size_hw = graph.op("Cast", graph.op("Shape", image, start=1, end=3), to=FLOAT)
    return graph.op("Gather", size_hw, graph.constant([1, 0]), axis=0)


def split_boxes(graph: GraphBuilder, boxes_xyxy: str) -> tuple[str, str]:
    """`[..., 4]` corners to `[..., 2]` centres and sizes."""
    first, second = graph.ops("Split", boxes_xyxy, outputs=2, axis=-1, num_outputs=2)
    sizes = graph.op("Sub", second, first)
    return graph.op("Add", first, graph.op("Mul", sizes, graph.constant(0.5))), sizes


def decoded(
    graph: GraphBuilder, deltas: str, centres: str, sizes: str, weights: Weights, limit_xy: str | None
) -> tuple[str, str]:
    """Corners `[..., 2]` of the boxes that `[..., 4]` deltas make of `[..., 2]` centres and sizes, cut to the image.

    `tinydet.detectors.box_coding.decode` and `clip_boxes`.
    """
    if weights != (1.0, 1.0, 1.0, 1.0):
        deltas = graph.op("Div", deltas, graph.constant(list(weights)))
    shift, growth = graph.ops("Split", deltas, outputs=2, axis=-1, num_outputs=2)
    growth = graph.op("Exp", graph.op("Min", growth, graph.constant(LARGEST_LOG_SCALE)))
    half = graph.op("Mul", graph.op("Mul", growth, sizes), graph.constant(0.5))
    centre = graph.op("Add", graph.op("Mul", shift, sizes), centres)
    corners = graph.op("Sub", centre, half), graph.op("Add", centre, half)
    if limit_xy is None:
        return corners
    zero = graph.constant(0.0)
    first, second = (graph.op("Min", graph.op("Max", corner, zero), limit_xy) for corner in corners)
    return first, second
