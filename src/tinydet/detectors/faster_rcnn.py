"""Faster R-CNN (Ren et al. 2015): on one map at stride 16 (C4), or on a feature pyramid (Lin et al. 2017).

C4, as the Quantization Mimic papers have it: the backbone makes one map, each region's 7x7 features go
through the rest of the network, then to the predictors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tinydet.backbones import BackboneConfig, ResNetConfig, build_backbone, build_region_trunk
from tinydet.data.batch import Batch, Target
from tinydet.detectors.outputs import DetectedTensors, DetectorOutputs, RegionPredictions, RegionsOfInterest
from tinydet.detectors.pixels import normalized
from tinydet.detectors.proposals import ProposalConfig, ProposalNetwork, proposal_losses
from tinydet.detectors.regions import (
    RegionConfig,
    detections_from_regions,
    region_losses,
    sample_regions,
)
from tinydet.detectors.roi_align import roi_align
from tinydet.preprocessing import Preprocessing
from tinydet.quantizers import Quantizer, QuantizerConfig


@dataclass(frozen=True)
class FasterRCNNConfig:
    """Everything that defines the network.

    Attributes:
        classes: names, without background.
        quantizer: Q on the last feature map, or None.
    """

    classes: tuple[str, ...]
    backbone: BackboneConfig = field(default_factory=ResNetConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    regions: RegionConfig = field(default_factory=RegionConfig)
    quantizer: QuantizerConfig | None = None


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


class FasterRCNN(nn.Module):
    def __init__(self, config: FasterRCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.preprocessing.channel_count)
        self.feature_channels, self.feature_strides = self.backbone.channels, self.backbone.strides
        self.quantizer = Quantizer(config.quantizer) if config.quantizer else None
        self.proposals = ProposalNetwork(config.proposals, self.backbone.channels[0], self.backbone.strides)
        trunk = build_region_trunk(config.backbone, config.regions.output_size)
        self.heads = RegionHeads(trunk, trunk.out_channels, len(config.classes), config.regions.class_agnostic_boxes)

    def blocks(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone, "proposals": self.proposals, "heads": self.heads}

    def features(self, batch: Batch) -> tuple[Tensor, ...]:
        return self.backbone(normalized(batch, self.config.preprocessing))

    def regions_of_interest(self, batch: Batch, count: int) -> RegionsOfInterest:
        raw = self.features(batch)
        dense, level_sizes = self.proposals(self.quantized(raw))
        boxes = self.proposals.propose(dense, level_sizes, batch.sizes_hw, count)
        return RegionsOfInterest(raw, self.backbone.strides, boxes)

    def forward(self, batch: Batch) -> DetectorOutputs:
        raw = self.features(batch)
        features = self.quantized(raw)
        dense, level_sizes = self.proposals(features)
        proposals = self.proposals.propose(dense, level_sizes, batch.sizes_hw)
        boxes, targets = proposals, None
        if self.training:
            boxes, targets = sample_regions(proposals, batch.targets, self.config.regions)
        logits, deltas = self.heads(self.pool(features, boxes))
        return DetectorOutputs(
            features=features,
            unquantized_features=raw,
            strides=self.backbone.strides,
            sizes_hw=batch.sizes_hw,
            dense=dense,
            proposals_xyxy=proposals,
            regions=RegionPredictions(boxes, logits, deltas, targets),
        )

    def quantized(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(self.quantizer(x) for x in features) if self.quantizer else features

    def pool(self, features: tuple[Tensor, ...], boxes_xyxy: list[Tensor]) -> Tensor:
        """`[R, C, P, P]` features of the regions."""
        return roi_align(features[0], boxes_xyxy, self.backbone.strides[0], self.config.regions.output_size)

    def criterion(self, outputs: DetectorOutputs, targets: tuple[Target, ...]) -> dict[str, Tensor]:
        assert outputs.regions is not None
        return proposal_losses(outputs.dense, targets, self.config.proposals) | region_losses(
            outputs.regions, self.config.regions
        )

    @torch.no_grad()
    def postprocess(self, outputs: DetectorOutputs) -> list[DetectedTensors]:
        return detections_from_regions(outputs, self.config.regions)
