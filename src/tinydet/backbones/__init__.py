"""Networks from images to feature maps, at any width."""

from __future__ import annotations

from tinydet.backbones.backbone import Backbone, RegionTrunk
from tinydet.backbones.mobilenet import MobileNet, MobileNetConfig, MobileNetRegionTrunk
from tinydet.backbones.resnet import ResNet, ResNetConfig, ResNetRegionTrunk
from tinydet.backbones.vgg import VGG, VGGConfig, VGGRegionTrunk

BackboneConfig = ResNetConfig | VGGConfig | MobileNetConfig

__all__ = [
    "Backbone",
    "BackboneConfig",
    "MobileNetConfig",
    "RegionTrunk",
    "ResNetConfig",
    "VGGConfig",
    "build_backbone",
    "build_region_trunk",
]


def build_backbone(config: BackboneConfig, in_channels: int) -> Backbone:
    """The part that makes one map at stride 16 for `[B, in_channels, H, W]` images."""
    match config:
        case ResNetConfig():
            return ResNet(config, in_channels)
        case VGGConfig():
            return VGG(config, in_channels)
        case MobileNetConfig():
            return MobileNet(config, in_channels)


def build_region_trunk(config: BackboneConfig, region_size: int) -> RegionTrunk:
    """The part that is applied to each region, `[R, C, region_size, region_size]`."""
    match config:
        case ResNetConfig():
            return ResNetRegionTrunk(config)
        case VGGConfig():
            return VGGRegionTrunk(config, region_size)
        case MobileNetConfig():
            return MobileNetRegionTrunk(config)
