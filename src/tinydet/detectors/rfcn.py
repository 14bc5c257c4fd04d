"""R-FCN (Dai et al. 2016): every layer runs once for the whole image; regions only average position-sensitive maps."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from tinydet.backbones import BackboneConfig, VGGConfig
from tinydet.backbones.dilation import build_map_trunk
from tinydet.backbones.resnet import initialize
from tinydet.backbones.width import divided_channels
from tinydet.data.batch import Target
from tinydet.detectors.anchors import QUANTIZATION_MIMIC_RFCN_ANCHORS
from tinydet.detectors.hard_regions import all_regions, hard_region_losses
from tinydet.detectors.outputs import RegionPredictions, RegionTargets
from tinydet.detectors.proposals import ProposalConfig
from tinydet.detectors.ps_roi import ps_roi_align, vote
from tinydet.detectors.regions import RegionConfig
from tinydet.detectors.two_stage import TwoStageConfig, TwoStageDetector


@dataclass(frozen=True)
class RFCNRegionConfig(RegionConfig):
    """How regions are pooled, which of them teach, and how they become detections.

    Attributes:
        output_size: k; each class has k * k maps.
        hardest: B, the regions of each image whose loss counts (OHEM); None samples `batch` of them by chance instead.
            With B, `batch` and `positive_fraction` are not used.
        hardest_nms_iou: of regions that overlap more than this, only the hardest is a candidate.
    """

    output_size: int = 3
    class_agnostic_boxes: bool = True
    hardest: int | None = 128
    hardest_nms_iou: float = 0.7

    def __post_init__(self) -> None:
        if self.output_size < 1 or (self.hardest is not None and self.hardest < 1):
            raise ValueError(f"{self.output_size} bins and the {self.hardest} hardest regions: both must be at least 1")


@dataclass(frozen=True)
class RFCNConfig(TwoStageConfig):
    """Everything that defines the network.

    Attributes:
        hidden_channels: of the convolution before the score maps, at full width; 0 leaves it out.
        hidden_kernel: its kernel. Dai et al. have 1x1 on a ResNet; 3x3 on a VGG is what the sizes of Wei et al. 2018,
            Table 1 (87, 5.5 and 0.13 MB) and the complexity of Table 3 (227 M) point to; see docs/complexity.md.
    """

    backbone: BackboneConfig = field(default_factory=VGGConfig)
    proposals: ProposalConfig = field(default_factory=lambda: ProposalConfig(QUANTIZATION_MIMIC_RFCN_ANCHORS))
    regions: RFCNRegionConfig = field(default_factory=RFCNRegionConfig)
    hidden_channels: int = 1024
    hidden_kernel: int = 3

    def __post_init__(self) -> None:
        if self.hidden_channels < 0 or self.hidden_kernel < 1 or self.hidden_kernel % 2 == 0:
            raise ValueError(f"{self.hidden_channels} hidden channels by a kernel of {self.hidden_kernel} (odd)")


class PositionSensitiveHeads(nn.Module):
    """From the feature map to `k * k` maps of each class's score and of each box offset.

    A vote of k * k bins makes a step of gradient descent k * k times smaller than a fully connected layer's. The maps
    are therefore k times what their convolutions give: the same functions, learnt in as many steps as there.
    """

    def __init__(self, config: RFCNConfig, in_channels: int) -> None:
        super().__init__()
        self.trunk, channels = build_map_trunk(config.backbone, in_channels)
        self.hidden: nn.Module = nn.Identity()
        if config.hidden_channels:
            hidden = divided_channels(config.hidden_channels, config.backbone.width_divisor)
            convolution = nn.Conv2d(channels, hidden, config.hidden_kernel, padding=config.hidden_kernel // 2)
            self.hidden = nn.Sequential(convolution, nn.ReLU(inplace=True))
            channels = hidden
            initialize(self.hidden)
        bins = config.regions.output_size**2
        box_classes = 1 if config.regions.class_agnostic_boxes else len(config.classes)
        self.class_maps = nn.Conv2d(channels, (len(config.classes) + 1) * bins, 1)
        self.box_maps = nn.Conv2d(channels, 4 * box_classes * bins, 1)
        self.scale = float(config.regions.output_size)
        for layer, spread in ((self.class_maps, 1.0), (self.box_maps, 0.3)):  # of a bin's output, at any width
            nn.init.normal_(layer.weight, std=spread / (self.scale * channels**0.5))
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, C, H, W]` to `[B, (classes + 1) * k * k, H, W]` and `[B, 4 * box classes * k * k, H, W]`."""
        x = self.hidden(self.trunk(features))
        return self.class_maps(x) * self.scale, self.box_maps(x) * self.scale


class RFCN(TwoStageDetector):
    config: RFCNConfig

    def __init__(self, config: RFCNConfig) -> None:
        super().__init__(config)
        self.heads = PositionSensitiveHeads(config, self.backbone.channels[0])

    def predict_regions(self, features: tuple[Tensor, ...], boxes_xyxy: list[Tensor]) -> tuple[Tensor, Tensor]:
        class_maps, box_maps = self.heads(features[0])
        stride, bins = self.backbone.strides[0], self.config.regions.output_size
        logits = vote(ps_roi_align(class_maps, boxes_xyxy, stride, bins))
        deltas = vote(ps_roi_align(box_maps, boxes_xyxy, stride, bins))
        return logits, deltas if self.config.regions.class_agnostic_boxes else deltas.unflatten(1, (-1, 4))

    def training_regions(
        self, proposals_xyxy: list[Tensor], targets: tuple[Target, ...]
    ) -> tuple[list[Tensor], RegionTargets]:
        if self.config.regions.hardest is None:
            return super().training_regions(proposals_xyxy, targets)
        return all_regions(proposals_xyxy, targets, self.config.regions.match)

    def region_losses(self, regions: RegionPredictions) -> dict[str, Tensor]:
        config = self.config.regions
        if config.hardest is None:
            return super().region_losses(regions)
        return hard_region_losses(regions, config, config.hardest, config.hardest_nms_iou)
