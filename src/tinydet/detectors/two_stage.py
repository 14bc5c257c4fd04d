"""What Faster R-CNN and R-FCN share: a backbone, Q, a proposal network, and one pass from images to regions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tinydet.backbones import BackboneConfig, ResNetConfig, build_backbone
from tinydet.backbones.backbone import Backbone
from tinydet.data.batch import Batch, Target
from tinydet.detectors.outputs import (
    DetectedTensors,
    DetectorOutputs,
    RegionPredictions,
    RegionsOfInterest,
    RegionTargets,
)
from tinydet.detectors.pixels import normalized
from tinydet.detectors.proposals import ProposalConfig, ProposalNetwork, proposal_losses
from tinydet.detectors.regions import RegionConfig, detections_from_regions, region_losses, sample_regions
from tinydet.preprocessing import Preprocessing
from tinydet.quantizers import Quantizer, QuantizerConfig


@dataclass(frozen=True)
class TwoStageConfig:
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


class TwoStageDetector(nn.Module, ABC):
    """A detector that proposes regions on the backbone's maps, and then predicts a class and a box for each.

    A subclass sets `heads` and says what they predict.
    """

    heads: nn.Module

    def __init__(self, config: TwoStageConfig, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone or build_backbone(config.backbone, config.preprocessing.channel_count)
        self.feature_channels, self.feature_strides = self.backbone.channels, self.backbone.strides
        self.quantizer = Quantizer(config.quantizer) if config.quantizer else None
        self.proposals = ProposalNetwork(config.proposals, self.backbone.channels[0], self.backbone.strides)

    @abstractmethod
    def predict_regions(self, features: tuple[Tensor, ...], boxes_xyxy: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits `[R, classes + 1]` and deltas `[R, 4]` or `[R, classes, 4]` of one `[R_i, 4]` an image."""

    def training_regions(
        self, proposals_xyxy: list[Tensor], targets: tuple[Target, ...]
    ) -> tuple[list[Tensor], RegionTargets]:
        """The regions that the second stage learns from, and what each should be."""
        return sample_regions(proposals_xyxy, targets, self.config.regions)

    def region_losses(self, regions: RegionPredictions) -> dict[str, Tensor]:
        return region_losses(regions, self.config.regions)

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
            boxes, targets = self.training_regions(proposals, batch.targets)
        logits, deltas = self.predict_regions(features, boxes)
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

    def criterion(self, outputs: DetectorOutputs, targets: tuple[Target, ...]) -> dict[str, Tensor]:
        assert outputs.regions is not None
        return proposal_losses(outputs.dense, targets, self.config.proposals) | self.region_losses(outputs.regions)

    @torch.no_grad()
    def postprocess(self, outputs: DetectorOutputs) -> list[DetectedTensors]:
        return detections_from_regions(outputs, self.config.regions)
