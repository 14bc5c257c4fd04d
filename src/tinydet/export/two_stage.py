"""Faster R-CNN, with or without a pyramid, and R-FCN as one graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinydet.detectors.faster_rcnn import FasterRCNN
from tinydet.detectors.faster_rcnn_fpn import FasterRCNNFPN
from tinydet.detectors.regions import WEIGHTS
from tinydet.detectors.rfcn import RFCN
from tinydet.detectors.two_stage import TwoStageDetector
from tinydet.export.boxes import centres_and_sizes, decoded, limits_xy
from tinydet.export.detections import class_scores, for_every_class, kept_detections
from tinydet.export.graph import FLOAT, GraphBuilder
from tinydet.export.modules import export_module
from tinydet.export.pooling import pooled_from_map, pooled_from_pyramid, votes_of_bins
from tinydet.export.proposals import proposals_of_levels
from tinydet.export.stem import include_trunk, pixels_of

_EXAMPLE_SIDE = 224


class _Trunk(nn.Module):
    """All that is computed once an image."""

    def __init__(self, detector: TwoStageDetector) -> None:
        super().__init__()
        self.backbone, self.quantizer = detector.backbone, detector.quantizer
        self.proposals = nn.ModuleDict({"head": detector.proposals.head})
        self.heads = detector.heads if isinstance(detector, RFCN) else None

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """`[1, C, H, W]` to all maps, all logits, all deltas, one a level, and R-FCN's two position-sensitive maps."""
        maps = self.backbone(image)
        if self.quantizer is not None:
            maps = tuple(self.quantizer(x) for x in maps)
        logits, deltas = self.proposals["head"](list(maps))
        position_sensitive = () if self.heads is None else self.heads(maps[0])
        return (*maps, *logits, *deltas, *position_sensitive)


class _Heads(nn.Module):
    """What is computed for each region; it is a part of its own so that weights have their names in the checkpoint."""

    def __init__(self, heads: nn.Module) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        return self.heads(pooled)


def add_two_stage(graph: GraphBuilder, image: str, detector: TwoStageDetector) -> None:
    """Everything from `[1, H, W, C]` uint8 pixels to the outputs `boxes`, `scores` and `labels`."""
    config = detector.config
    example = torch.rand(1, config.preprocessing.channel_count, _EXAMPLE_SIDE, _EXAMPLE_SIDE + 32)
    fixed = config.preprocessing.fixed_size_hw
    if fixed is not None:
        divisor = config.preprocessing.size_divisor
        example = torch.rand(*example.shape[:2], *(-(-side // divisor) * divisor for side in fixed))
    pixels = pixels_of(graph, image, config.preprocessing)
    trunk = export_module(_Trunk(detector), example, () if fixed else (2, 3))
    outputs = include_trunk(graph, pixels, config.preprocessing, trunk)
    levels = len(detector.feature_strides)
    maps, logits, deltas = (outputs[levels * i : levels * (i + 1)] for i in range(3))
    limit_xy = limits_xy(graph, pixels)
    boxes = proposals_of_levels(graph, detector.proposals, logits, deltas, limit_xy)
    boxes, there = _at_least_one(graph, boxes)
    region_logits, region_deltas, boxes = _regions(graph, detector, maps, outputs[3 * levels :], boxes)
    scores = graph.op("Mul", class_scores(graph, region_logits), there)
    centres, sizes = centres_and_sizes(graph, boxes)  # [2, R] each
    regions = config.regions
    if regions.class_agnostic_boxes:
        first, second = decoded(
            graph, graph.op("Transpose", region_deltas, perm=[1, 0]), centres, sizes, WEIGHTS, limit_xy
        )
        shared = graph.op("Transpose", graph.op("Concat", first, second, axis=0), perm=[1, 0])  # [R, 4]
        class_boxes = for_every_class(graph, shared, scores)
    else:
        axis = graph.constant([1])
        own = [graph.op("Unsqueeze", value, axis) for value in (limit_xy, centres, sizes)]
        by_class = graph.op("Transpose", region_deltas, perm=[2, 1, 0])  # [4, classes, R]
        first, second = decoded(graph, by_class, own[1], own[2], WEIGHTS, own[0])
        class_boxes = graph.op("Transpose", graph.op("Concat", first, second, axis=0), perm=[1, 2, 0])
    kept_detections(graph, class_boxes, scores, regions.score_threshold, regions.nms_iou, regions.most)


def _at_least_one(graph: GraphBuilder, boxes: str) -> tuple[str, str]:
    """The boxes, or an empty one where there are none, and 1 or 0 for whether there were any.

    Engines do not run a convolution on no region at all.
    """
    there = graph.op("Min", graph.op("Shape", boxes, start=0, end=1), graph.constant([1]))
    missing = graph.op("Sub", graph.constant([1]), there)
    empty = graph.op("Slice", graph.constant([[0.0] * 4]), graph.constant([0]), missing)
    return graph.op("Concat", boxes, empty, axis=0), graph.op("Cast", there, to=FLOAT)


def _regions(
    graph: GraphBuilder, detector: TwoStageDetector, maps: list[str], position_sensitive: list[str], boxes: str
) -> tuple[str, str, str]:
    """Logits `[R, classes + 1]`, deltas `[R, 4]` or `[R, classes, 4]`, and `[R, 4]` boxes in the same order."""
    config, strides = detector.config, detector.feature_strides
    size = config.regions.output_size
    match detector:
        case RFCN():
            votes = graph.op("Concat", *position_sensitive, axis=1)
            votes = votes_of_bins(graph, votes, boxes, strides[0], size)
            classes = len(config.classes) + 1
            boxed = 1 if config.regions.class_agnostic_boxes else classes - 1
            cut = graph.constant([classes, 4 * boxed])
            logits, deltas = graph.ops("Split", votes, cut, outputs=2, axis=1)
            if not config.regions.class_agnostic_boxes:
                deltas = graph.op("Reshape", deltas, graph.constant([-1, classes - 1, 4]))
            return logits, deltas, boxes
        case FasterRCNNFPN():
            pooled, boxes = pooled_from_pyramid(graph, maps[:-1], strides, boxes, detector.config)
        case FasterRCNN():
            pooled = pooled_from_map(graph, maps[0], boxes, strides[0], size)
        case _:
            raise TypeError(f"cannot export a {type(detector).__name__}")
    example = torch.rand(3, detector.feature_channels[0], size, size)
    heads = export_module(_Heads(detector.heads), example, dynamic_axes=(0,))
    logits, deltas = graph.include(heads, {heads.graph.input[0].name: pooled})
    return logits, deltas, boxes
