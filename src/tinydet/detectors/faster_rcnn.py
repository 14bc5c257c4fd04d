"""Faster R-CNN (Ren et al. 2015): on one map at stride 16 (C4), or on a feature pyramid (Lin et al. 2017).

C4, as the Quantization Mimic papers have it: the backbone makes one map, each region's 7x7 features go
through the rest of the network, then to the predictors.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tinydet.backbones import build_region_trunk
from tinydet.detectors.roi_align import roi_align
from tinydet.detectors.two_stage import TwoStageConfig, TwoStageDetector


@dataclass(frozen=True)
class FasterRCNNConfig(TwoStageConfig):
    """Everything that defines the network; the fields are `TwoStageConfig`'s."""


class RegionHeads(nn.Module):
    """From each region's pooled features to class scores and box offsets."""

    def __init__(self, trunk: nn.Module, features: int, classes: int, class_agnostic_boxes: bool) -> None:
        super().__init__()
        self.trunk = trunk
        self.class_agnostic_boxes = class_agnostic_boxes
        self.class_scores = nn.Linear(features, classes + 1)
        self.box_deltas = nn.Linear(features, 4 if class_agnostic_boxes else 4 * classes)
        nn.init.normal_(self.class_scores.weight, std=0.01)
        nn.init.normal_(self.box_deltas.weight, std=0.001)
        for layer in (self.class_scores, self.box_deltas):
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """`[R, C, P, P]` to logits `[R, classes + 1]` and deltas `[R, 4]` or `[R, classes, 4]`."""
        x = self.trunk(pooled)
        deltas = self.box_deltas(x)
        return self.class_scores(x), deltas if self.class_agnostic_boxes else deltas.unflatten(1, (-1, 4))


class FasterRCNN(TwoStageDetector):
    def __init__(self, config: FasterRCNNConfig) -> None:
        super().__init__(config)
        trunk = build_region_trunk(config.backbone, config.regions.output_size)
        self.heads = RegionHeads(trunk, trunk.out_channels, len(config.classes), config.regions.class_agnostic_boxes)

    def predict_regions(self, features: tuple[Tensor, ...], boxes_xyxy: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.heads(self.pool(features, boxes_xyxy))

    def pool(self, features: tuple[Tensor, ...], boxes_xyxy: list[Tensor]) -> Tensor:
        """`[R, C, P, P]` features of the regions."""
        return roi_align(features[0], boxes_xyxy, self.backbone.strides[0], self.config.regions.output_size)
