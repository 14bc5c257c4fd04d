"""SSD as one graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinydet.detectors.ssd import SSD
from tinydet.export.boxes import decoded, limits_xy
from tinydet.export.detections import class_scores, kept_detections
from tinydet.export.graph import GraphBuilder
from tinydet.export.modules import export_module
from tinydet.export.stem import include_trunk, pixels_of


class _Network(nn.Module):
    """From the normalised image to the predictions at every default box."""

    def __init__(self, detector: SSD) -> None:
        super().__init__()
        self.backbone, self.heads, self.quantizer = detector.backbone, detector.heads, detector.quantizer
        self.quantized_maps = detector.config.quantized_maps

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone(image)
        maps = (*maps, *self.heads.extras(maps[-1]))
        if self.quantizer is not None:
            maps = tuple(self.quantizer(x) if level in self.quantized_maps else x for level, x in enumerate(maps))
        logits, deltas = self.heads.predictors(maps)
        return logits[0], deltas[0]


def add_ssd(graph: GraphBuilder, image: str, detector: SSD) -> None:
    """Everything from `[1, H, W, C]` uint8 pixels to the outputs `boxes`, `scores` and `labels`."""
    config = detector.config
    assert config.preprocessing.fixed_size_hw is not None
    divisor = config.preprocessing.size_divisor
    padded_hw = tuple(-(-side // divisor) * divisor for side in config.preprocessing.fixed_size_hw)
    example = torch.rand(1, config.preprocessing.channel_count, *padded_hw)
    pixels = pixels_of(graph, image, config.preprocessing)
    logits, deltas = include_trunk(graph, pixels, config.preprocessing, export_module(_Network(detector), example, ()))
    anchors = detector.anchors_xyxy.cpu()
    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = graph.constant((anchors[:, :2] + sizes / 2).numpy().T)
    deltas = graph.op("Transpose", deltas, perm=[1, 0])  # [4, A]
    limit_xy = limits_xy(graph, pixels)
    corners = decoded(graph, deltas, centres, graph.constant(sizes.numpy().T), config.box_weights, limit_xy)
    boxes = graph.op("Transpose", graph.op("Concat", *corners, axis=0), perm=[1, 0])  # [A, 4]
    candidates = graph.constant([min(config.candidates, len(anchors))])
    scores = class_scores(graph, logits)
    scores, chosen = graph.ops("TopK", scores, candidates, outputs=2, axis=1, sorted=0)  # [classes, candidates]
    boxes = graph.op("Gather", boxes, chosen, axis=0)  # [classes, candidates, 4]
    kept_detections(graph, boxes, scores, config.score_threshold, config.nms_iou, config.most)
