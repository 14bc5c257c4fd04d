"""Features of regions as nodes."""

from __future__ import annotations

import math

import numpy as np

from tinydet.detectors import faster_rcnn_fpn, ps_roi, roi_align
from tinydet.detectors.faster_rcnn_fpn import FasterRCNNFPNConfig
from tinydet.export.graph import GraphBuilder


def pooled_from_map(graph: GraphBuilder, features: str, boxes_xyxy: str, stride: int, output_size: int) -> str:
    """`[R, C, P, P]` from one `[1, C, H, W]` map: `tinydet.detectors.roi_align`."""
    samples = roi_align.SAMPLES_PER_BIN
    return _roi_align(graph, features, boxes_xyxy, _first_image(graph, boxes_xyxy), stride, output_size, samples, False)


def pooled_from_pyramid(
    graph: GraphBuilder, maps: list[str], strides: tuple[int, ...], boxes_xyxy: str, config: FasterRCNNFPNConfig
) -> tuple[str, str]:
    """`[R, C, P, P]`, each region's from the map that suits its size, and the boxes in the order of these features."""
    levels = _level_of_regions(graph, boxes_xyxy, len(maps))
    boxes, pooled = [], []
    for level, (features, stride) in enumerate(zip(maps, strides)):
        of_level = graph.op("Equal", levels, graph.constant(float(level)))
        of_level = graph.op("Reshape", graph.op("NonZero", of_level), graph.constant([-1]))
        level_boxes = graph.op("Gather", boxes_xyxy, of_level, axis=0)
        images = _first_image(graph, level_boxes)
        size, samples = config.regions.output_size, config.samples_per_bin
        pooled.append(_roi_align(graph, features, level_boxes, images, stride, size, samples, config.half_pixel))
        boxes.append(level_boxes)
    return graph.op("Concat", *pooled, axis=0), graph.op("Concat", *boxes, axis=0)


def votes_of_bins(graph: GraphBuilder, maps: str, boxes_xyxy: str, stride: int, bins: int) -> str:
    """`[R, D]` from `[1, D * bins * bins, H, W]` position-sensitive maps: `ps_roi_align`, then `vote`.

    Each bin of a region is a region of its own with a single bin, and the maps of that bin are an image of their own.
    So each value is computed once; RoIAlign of all maps in all bins would compute `bins * bins` times as many.
    """
    count = bins * bins
    height_width = graph.op("Shape", maps, start=2)
    shape = graph.op("Concat", graph.constant([-1, count]), height_width, axis=0)
    by_bin = graph.op("Transpose", graph.op("Reshape", maps, shape), perm=[1, 0, 2, 3])  # [bins^2, D, H, W]
    rows, columns = np.divmod(np.arange(count), bins)
    start = np.stack([columns, rows], axis=1).astype(np.float32) / bins  # [bins^2, 2]
    first, second = graph.ops("Split", boxes_xyxy, outputs=2, axis=1, num_outputs=2)
    first = graph.op("Unsqueeze", first, graph.constant([0]))  # [1, R, 2]
    size = graph.op("Sub", graph.op("Unsqueeze", second, graph.constant([0])), first)
    corner = graph.op("Add", first, graph.op("Mul", size, graph.constant(start[:, None])))  # [bins^2, R, 2]
    opposite = graph.op("Add", corner, graph.op("Mul", size, graph.constant(1 / bins)))
    parts = graph.op("Reshape", graph.op("Concat", corner, opposite, axis=2), graph.constant([-1, 4]))
    regions = graph.op("Shape", boxes_xyxy, start=0, end=1)
    images = graph.op("Expand", graph.constant(np.arange(count)[:, None]), _joined(graph, [count], regions))
    images = graph.op("Reshape", images, graph.constant([-1]))
    pooled = _roi_align(graph, by_bin, parts, images, stride, 1, ps_roi.SAMPLES_PER_BIN, True)  # [bins^2 * R, D, 1, 1]
    channels = graph.op("Shape", by_bin, start=1, end=2)
    pooled = graph.op("Reshape", pooled, graph.op("Concat", graph.constant([count]), regions, channels, axis=0))
    return graph.op("ReduceMean", pooled, graph.constant([0]), keepdims=0)


def _joined(graph: GraphBuilder, first: list[int], second: str) -> str:
    return graph.op("Concat", graph.constant(first), second, axis=0)


def _first_image(graph: GraphBuilder, boxes_xyxy: str) -> str:
    zero = graph.op("Shape", boxes_xyxy, start=0, end=1)
    return graph.op("Expand", graph.constant([0]), zero)


def _roi_align(
    graph: GraphBuilder, maps: str, boxes: str, images: str, stride: int, size: int, samples: int, half_pixel: bool
) -> str:
    return graph.op(
        "RoiAlign",
        maps,
        boxes,
        images,
        mode="avg",
        output_height=size,
        output_width=size,
        sampling_ratio=samples,
        spatial_scale=1 / stride,
        coordinate_transformation_mode="half_pixel" if half_pixel else "output_half_pixel",
    )


def _level_of_regions(graph: GraphBuilder, boxes_xyxy: str, levels: int) -> str:
    """`[R]` float32: `tinydet.detectors.faster_rcnn_fpn.level_of_regions`."""
    first, second = graph.ops("Split", boxes_xyxy, outputs=2, axis=1, num_outputs=2)
    area = graph.op("ReduceProd", graph.op("Sub", second, first), graph.constant([1]), keepdims=0)
    side = graph.op("Sqrt", graph.op("Max", area, graph.constant(0.0)))
    share = graph.op("Add", graph.op("Div", side, graph.constant(faster_rcnn_fpn.CANONICAL_SIDE)), graph.constant(1e-6))
    octaves = graph.op("Mul", graph.op("Log", share), graph.constant(1 / math.log(2)))
    level = graph.op("Floor", graph.op("Add", octaves, graph.constant(float(faster_rcnn_fpn.CANONICAL_LEVEL))))
    return graph.op("Clip", level, graph.constant(0.0), graph.constant(float(levels - 1)))
