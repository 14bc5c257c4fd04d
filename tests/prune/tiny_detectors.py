"""One tiny detector of each kind, and a batch for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tinydet.backbones import MobileNetConfig, ResNetConfig, VGGConfig
from tinydet.data.batch import Batch, Target
from tinydet.detectors import (
    DetectorConfig,
    FasterRCNNConfig,
    FasterRCNNFPNConfig,
    RFCNConfig,
    SSDConfig,
    build_detector,
)
from tinydet.prune.layers import output_layers

CLASSES = ("red", "white")
CONFIGS: dict[str, DetectorConfig] = {
    "resnet18": FasterRCNNConfig(CLASSES, ResNetConfig(18, 16)),
    "vgg": RFCNConfig(CLASSES, VGGConfig(32)),
    "vgg_plain": RFCNConfig(CLASSES, VGGConfig(32, normalization="none")),
    "vgg_depthwise": RFCNConfig(CLASSES, VGGConfig(32, groups="depthwise")),
    "vgg_regions": FasterRCNNConfig(CLASSES, VGGConfig(32, normalization="none")),
    "resnet_rfcn": RFCNConfig(CLASSES, ResNetConfig(18, 16)),
    "mobilenet": FasterRCNNConfig(CLASSES, MobileNetConfig(8)),
    "fpn": FasterRCNNFPNConfig(CLASSES, ResNetConfig(50, 16, normalization="frozen")),
    "ssd": SSDConfig(CLASSES, MobileNetConfig(8)),
    "ssd_lite": SSDConfig(CLASSES, MobileNetConfig(8), predictor="lite", separable_extras=True),
    "ssd_resnet": SSDConfig(CLASSES, ResNetConfig(18, 16)),
}


def make_detector(name: str, seed: int = 0) -> Any:
    """A detector with random weights, whose biases, scales and statistics are not those of a fresh one."""
    torch.manual_seed(seed)
    detector = build_detector(CONFIGS[name])
    with torch.no_grad():
        for module in detector.modules():
            if hasattr(module, "running_var"):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.5)
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.uniform_(-0.1, 0.2)
        for layer in output_layers(detector).values():  # a fresh detector's say next to nothing
            layer.weight.normal_(std=0.3)
    return detector.eval()


def make_batch(detector: Any, size_hw: tuple[int, int] = (64, 96), images: int = 2) -> Batch:
    size_hw = detector.config.preprocessing.fixed_size_hw or size_hw
    pixels = 255 * torch.rand(
        images, detector.config.preprocessing.channel_count, *size_hw, generator=torch.Generator().manual_seed(3)
    )
    target = Target(torch.tensor([[10.0, 8, 60, 50], [30, 5, 60, 60]]), torch.tensor([0, 1]), torch.zeros(0, 4))
    names = tuple(f"image{i}" for i in range(images))
    return Batch(pixels, (size_hw,) * images, (size_hw,) * images, (target,) * images, names, names)
