"""SSD (Liu et al. 2016) on MobileNetV1, as Ko and Yoo have it, on a wider or thinner one, or on a ResNet or VGG16.

Maps from conv_pw_11 at stride 16 and conv_pw_13 at stride 32, then four extra ones: 19, 10, 5, 3, 2 and 1 cells a side
of a 300x300 input. Every map predicts a class and an offset for each default box.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, nms

from tinydet.backbones import BackboneConfig, MobileNetConfig, ResNetConfig, VGGConfig
from tinydet.backbones.backbone import Backbone
from tinydet.backbones.mobilenet import MobileNet
from tinydet.backbones.resnet import ResNet
from tinydet.backbones.vgg import VGG
from tinydet.backbones.width import divided_channels
from tinydet.data.batch import Batch, Target
from tinydet.detectors.box_coding import Weights, clip_boxes, decode
from tinydet.detectors.default_boxes import DEFAULT_BOXES_1917, DefaultBoxConfig, default_boxes
from tinydet.detectors.outputs import DensePredictions, DetectedTensors, DetectorOutputs, RegionsOfInterest
from tinydet.detectors.pixels import normalized
from tinydet.detectors.ssd_heads import DensePredictors, ExtraLayers, Predictor, SSDHeads
from tinydet.detectors.ssd_loss import SSDLossConfig, ssd_losses
from tinydet.preprocessing import Preprocessing
from tinydet.quantizers import Quantizer, QuantizerConfig

SSD300_PREPROCESSING = Preprocessing(fixed_size_hw=(300, 300), mean=(127.5,) * 3, std=(127.5,) * 3)
"""-1 to 1, what the published MobileNet weights take."""


@dataclass(frozen=True)
class SSDConfig:
    """Everything that defines the network.

    Attributes:
        classes: names, without background.
        preprocessing: must have a `fixed_size_hw`.
        boxes: the default boxes; with the backbone they say how many extra maps there are.
        extra_channels: of the extra maps at full width; the backbone's width divisor divides them.
        predictor: kind of convolution that predicts.
        separable_extras: depthwise-separable extra layers.
        box_weights: what offsets are scaled by, the inverse of the variances 0.1 and 0.2.
        quantizer: Q on the maps of `quantized_maps`, or None. The predictors see its codes; the next maps are computed
            from the unquantized one.
        quantized_maps: indices of maps, 0 being the finest.
        score_threshold, candidates, nms_iou, most: detections kept at test; `candidates` of each class enter NMS.
        region_nms_iou: of the regions that are mimicked.
    """

    classes: tuple[str, ...]
    backbone: BackboneConfig = field(default_factory=MobileNetConfig)
    preprocessing: Preprocessing = SSD300_PREPROCESSING
    boxes: DefaultBoxConfig = DEFAULT_BOXES_1917
    extra_channels: tuple[int, ...] = (512, 256, 256, 128)
    predictor: Predictor = "3x3"
    separable_extras: bool = False
    box_weights: Weights = (10.0, 10.0, 5.0, 5.0)
    quantizer: QuantizerConfig | None = None
    quantized_maps: tuple[int, ...] = (0, 1)
    loss: SSDLossConfig = field(default_factory=SSDLossConfig)
    score_threshold: float = 0.01
    candidates: int = 400
    nms_iou: float = 0.45
    most: int = 200
    region_nms_iou: float = 0.7

    def __post_init__(self) -> None:
        if self.preprocessing.fixed_size_hw is None:
            raise ValueError("SSD takes images of one size: set the preprocessing's fixed_size_hw")
        if any(side % self.preprocessing.size_divisor for side in self.preprocessing.fixed_size_hw):
            raise ValueError(f"{self.preprocessing.fixed_size_hw} is no multiple of {self.preprocessing.size_divisor}")
        if not set(self.quantized_maps) <= set(range(len(self.boxes.shapes))):
            raise ValueError(f"quantized maps {self.quantized_maps} of {len(self.boxes.shapes)} maps")


class SSD(nn.Module):
    anchors_xyxy: Tensor

    def __init__(self, config: SSDConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = _two_maps(config.backbone, config.preprocessing.channel_count)
        extras = len(config.boxes.shapes) - len(self.backbone.channels)
        if extras != len(config.extra_channels):
            raise ValueError(
                f"{len(config.boxes.shapes)} maps, {len(self.backbone.channels)} of them the backbone's, need "
                f"{extras} extra_channels, not {config.extra_channels}"
            )
        extra_channels = tuple(divided_channels(c, config.backbone.width_divisor) for c in config.extra_channels)
        self.feature_channels = self.backbone.channels + extra_channels
        self.feature_strides = self.backbone.strides + tuple(
            self.backbone.strides[-1] * 2**level for level in range(1, extras + 1)
        )
        self.heads = SSDHeads(
            ExtraLayers(self.backbone.channels[-1], extra_channels, config.separable_extras),
            DensePredictors(self.feature_channels, config.boxes.per_cell(), len(config.classes), config.predictor),
        )
        self.quantizer = Quantizer(config.quantizer) if config.quantizer else None
        size_hw = config.preprocessing.fixed_size_hw
        assert size_hw is not None
        boxes = default_boxes(config.boxes, self._map_sizes_hw(size_hw), size_hw)
        self.register_buffer("anchors_xyxy", boxes, persistent=False)

    def blocks(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone, "heads": self.heads}

    def features(self, batch: Batch) -> tuple[Tensor, ...]:
        found, wanted = tuple(batch.images.shape[-2:]), self.config.preprocessing.fixed_size_hw
        if found != wanted:
            raise ValueError(f"images of {found}, but this SSD takes {wanted}")
        return self._maps(normalized(batch, self.config.preprocessing))

    def forward(self, batch: Batch) -> DetectorOutputs:
        raw = self.features(batch)
        features = self.quantized(raw)
        return DetectorOutputs(
            features=features,
            unquantized_features=raw,
            strides=self.feature_strides,
            sizes_hw=batch.sizes_hw,
            dense=self._dense(features),
        )

    def regions_of_interest(self, batch: Batch, count: int) -> RegionsOfInterest:
        """The default boxes most likely to hold an object of any class, decoded, clipped and thinned out by NMS."""
        raw = self.features(batch)
        with torch.no_grad():
            dense = self._dense(self.quantized(raw))
            scores = 1 - dense.logits.float().softmax(dim=2)[:, :, 0]
            boxes = decoded_boxes(dense, batch.sizes_hw)
            kept = [nms(b, s, self.config.region_nms_iou)[:count] for b, s in zip(boxes, scores)]
        return RegionsOfInterest(raw, self.feature_strides, [b[k] for b, k in zip(boxes, kept)])

    def quantized(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Each map after Q, where it has one."""
        return tuple(
            self.quantizer(x) if self.quantizer and level in self.config.quantized_maps else x
            for level, x in enumerate(features)
        )

    def criterion(self, outputs: DetectorOutputs, targets: tuple[Target, ...]) -> dict[str, Tensor]:
        return ssd_losses(outputs.dense, targets, self.config.loss)

    @torch.no_grad()
    def postprocess(self, outputs: DetectorOutputs) -> list[DetectedTensors]:
        """Boxes of every class above the threshold, after NMS by class, best first."""
        config = self.config
        boxes = decoded_boxes(outputs.dense, outputs.sizes_hw)
        scores = outputs.dense.logits.float().softmax(dim=2)[:, :, 1:]  # [B, A, classes]
        best, anchors = scores.topk(min(config.candidates, scores.shape[1]), dim=1)  # [B, candidates, classes]
        detected = []
        for image_boxes, image_scores, image_anchors in zip(boxes, best, anchors):
            row, label = torch.where(image_scores > config.score_threshold)
            chosen, score = image_boxes[image_anchors[row, label]], image_scores[row, label]
            kept = batched_nms(chosen, score, label, config.nms_iou)[: config.most]
            detected.append(DetectedTensors(chosen[kept], score[kept], label[kept]))
        return detected

    def _maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """`[B, C, H, W]` normalised images to every map, before the quantizer."""
        maps = self.backbone(images)
        return (*maps, *self.heads.extras(maps[-1]))

    def _dense(self, features: tuple[Tensor, ...]) -> DensePredictions:
        logits, deltas = self.heads.predictors(features)
        return DensePredictions(logits, deltas, self.anchors_xyxy, self.config.box_weights)

    @torch.no_grad()
    def _map_sizes_hw(self, size_hw: tuple[int, int]) -> list[tuple[int, int]]:
        image = torch.zeros(1, self.config.preprocessing.channel_count, *size_hw)
        was_training = self.training
        sizes = [(x.shape[-2], x.shape[-1]) for x in self.eval()._maps(image)]
        self.train(was_training)
        return sizes


def decoded_boxes(dense: DensePredictions, sizes_hw: tuple[tuple[int, int], ...]) -> list[Tensor]:
    """Every default box moved to where its offsets say, within the image: one `[A, 4]` an image."""
    return [
        clip_boxes(decode(deltas.float(), dense.anchors_xyxy, dense.weights), size_hw)
        for deltas, size_hw in zip(dense.deltas, sizes_hw)
    ]


def _two_maps(config: BackboneConfig, in_channels: int) -> Backbone:
    """The backbone's maps at strides 16 and 32; VGG16 has but the first."""
    match config:
        case MobileNetConfig():
            return MobileNet(config, in_channels, ends=(11, 13))
        case ResNetConfig():
            return _LastTwo(ResNet(config, in_channels, last_stage=4, single_map=False))
        case VGGConfig():
            return VGG(config, in_channels)


class _LastTwo(Backbone):
    """The two coarsest maps of a backbone."""

    def __init__(self, body: Backbone) -> None:
        super().__init__()
        self.body = body
        self.channels, self.strides = body.channels[-2:], body.strides[-2:]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.body(images)[-2:]
