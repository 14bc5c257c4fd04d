"""Box arithmetic as nodes.

Boxes are float32 in pixels of the resized image. Here coordinates come first, `[2, ..., N]` or `[4, ..., N]`: engines
are several times faster where the innermost axis is long.
"""

from __future__ import annotations

import math

from tinydet.detectors.box_coding import Weights
from tinydet.export.graph import FLOAT, GraphBuilder

LARGEST_LOG_SCALE = math.log(1000.0 / 16)
NEVER = -3e38
"""A score below every other."""


def limits_xy(graph: GraphBuilder, pixels: str) -> str:
    """`[2, 1]` float32: width and height of `[1, C, H, W]` pixels."""
    size_hw = graph.op("Cast", graph.op("Shape", pixels, start=2), to=FLOAT)
    return graph.op("Gather", size_hw, graph.constant([[1], [0]]), axis=0)


def centres_and_sizes(graph: GraphBuilder, boxes_xyxy: str) -> tuple[str, str]:
    """`[N, 4]` corners to `[2, N]` centres and sizes."""
    first, second = graph.ops("Split", graph.op("Transpose", boxes_xyxy, perm=[1, 0]), outputs=2, axis=0, num_outputs=2)
    sizes = graph.op("Sub", second, first)
    return graph.op("Add", first, graph.op("Mul", sizes, graph.constant(0.5))), sizes


def decoded(
    graph: GraphBuilder, deltas: str, centres: str, sizes: str, weights: Weights, limit_xy: str
) -> tuple[str, str]:
    """The corners `[2, ..., N]` of the boxes that `[4, ..., N]` deltas make of centres and sizes, cut to the image.

    `tinydet.detectors.box_coding.decode` and `clip_boxes`. `limit_xy` has as many axes as `deltas`.
    """
    shift, growth = graph.ops("Split", deltas, outputs=2, axis=0, num_outputs=2)
    if weights[0] != weights[1] or weights[2] != weights[3]:
        raise ValueError(f"box weights {weights}: those of x and y, and of width and height, must be equal")
    shift = _divided(graph, shift, weights[0])
    growth = graph.op("Exp", graph.op("Min", _divided(graph, growth, weights[2]), graph.constant(LARGEST_LOG_SCALE)))
    half = graph.op("Mul", graph.op("Mul", growth, sizes), graph.constant(0.5))
    centre = graph.op("Add", graph.op("Mul", shift, sizes), centres)
    zero = graph.constant(0.0)
    first = graph.op("Min", graph.op("Max", graph.op("Sub", centre, half), zero), limit_xy)
    second = graph.op("Min", graph.op("Max", graph.op("Add", centre, half), zero), limit_xy)
    return first, second


def _divided(graph: GraphBuilder, x: str, weight: float) -> str:
    return x if weight == 1 else graph.op("Div", x, graph.constant(float(weight)))
