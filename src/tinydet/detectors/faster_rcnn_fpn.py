"""Faster R-CNN on a feature pyramid (Lin et al. 2017), the detector of Compressed Objects Detection (section 3.2).

With 13 classes it has 26.8 M parameters in the backbone, 0.6 M in the proposal network and 14.0 M in the heads, as that
paper's Table 1 says.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from tinydet.backbones import ResNetConfig
from tinydet.backbones.backbone import RegionTrunk
from tinydet.backbones.feature_pyramid import ResNetPyramid
from tinydet.backbones.width import divided_channels
from tinydet.detectors.anchors import FPN_ANCHORS
from tinydet.detectors.faster_rcnn import RegionHeads
from tinydet.detectors.proposals import ProposalConfig
from tinydet.detectors.regions import RegionConfig
from tinydet.detectors.two_stage import TwoStageConfig, TwoStageDetector
from tinydet.preprocessing import Preprocessing

CANONICAL_SIDE, CANONICAL_LEVEL = 224.0, 2
"""A region of 224 pixels belongs to P4, the map at index 2 (Lin et al. 2017, Eq. 1)."""


@dataclass(frozen=True)
class FasterRCNNFPNConfig(TwoStageConfig):
    """Everything that defines the network; widths are divided by the backbone's `width_divisor` throughout.

    Attributes:
        pyramid_channels: of each map, at full width.
        hidden: units of the two layers of the heads, at full width.
        samples_per_bin: of RoIAlign, along each axis; 0 takes as many as the region is large (Detectron2).
        half_pixel: RoIAlign's corrected coordinates (Detectron2's ROIAlignV2) or the original ones (torchvision).
    """

    backbone: ResNetConfig = field(default_factory=lambda: ResNetConfig(50, normalization="frozen"))
    preprocessing: Preprocessing = field(
        default_factory=lambda: Preprocessing(shorter_side=800, longer_side=1333, size_divisor=32)
    )
    proposals: ProposalConfig = field(
        default_factory=lambda: ProposalConfig(FPN_ANCHORS, 2000, 1000, test_candidates=1000, test_proposals=1000)
    )
    regions: RegionConfig = field(default_factory=lambda: RegionConfig(batch=512, box_beta=1 / 9))
    pyramid_channels: int = 256
    hidden: int = 1024
    samples_per_bin: int = 2
    half_pixel: bool = False


class TwoLayerTrunk(RegionTrunk):
    """Two fully connected layers on each region's cells."""

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__()
        self.fc6, self.fc7 = nn.Linear(in_features, hidden), nn.Linear(hidden, hidden)
        self.out_channels = hidden

    def forward(self, regions: Tensor) -> Tensor:
        return self.fc7(self.fc6(regions.flatten(1)).relu()).relu()


class FasterRCNNFPN(TwoStageDetector):
    config: FasterRCNNFPNConfig

    def __init__(self, config: FasterRCNNFPNConfig) -> None:
        divisor = config.backbone.width_divisor
        channels = divided_channels(config.pyramid_channels, divisor)
        super().__init__(config, ResNetPyramid(config.backbone, config.preprocessing.channel_count, channels))
        trunk = TwoLayerTrunk(channels * config.regions.output_size**2, divided_channels(config.hidden, divisor))
        self.heads = RegionHeads(trunk, trunk.out_channels, len(config.classes), config.regions.class_agnostic_boxes)

    def predict_regions(self, features: tuple[Tensor, ...], boxes_xyxy: list[Tensor]) -> tuple[Tensor, Tensor]:
        return self.heads(self.pool(features, boxes_xyxy))

    def pool(self, features: tuple[Tensor, ...], boxes_xyxy: list[Tensor]) -> Tensor:
        """`[R, C, P, P]` features, each region's from the map that suits its size (P6 is for proposals alone)."""
        size = self.config.regions.output_size
        boxes = torch.cat(boxes_xyxy)
        images = torch.cat([boxes.new_full((len(b), 1), i) for i, b in enumerate(boxes_xyxy)])
        levels = level_of_regions(boxes, len(features) - 1)
        pooled = features[0].new_zeros(len(boxes), features[0].shape[1], size, size)
        for level in range(len(features) - 1):
            of_level = torch.where(levels == level)[0]
            if len(of_level):
                values = roi_align(
                    features[level],
                    torch.cat([images, boxes], dim=1)[of_level].to(features[level].dtype),
                    size,
                    1 / self.feature_strides[level],
                    self.config.samples_per_bin,
                    self.config.half_pixel,
                )
                pooled = pooled.index_copy(0, of_level, values)
        return pooled


def level_of_regions(boxes_xyxy: Tensor, levels: int) -> Tensor:
    """`[R]` index of the map that each region is pooled from (Lin et al. 2017, Eq. 1)."""
    sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(dim=1).clamp_min(0).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(sides / CANONICAL_SIDE + 1e-6))
    return level.clamp(0, levels - 1).to(torch.int64)
