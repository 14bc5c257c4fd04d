"""Feature pyramid network (Lin et al. 2017) on a ResNet: P2 to P5, and P6 by skipping every second cell of P5."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from tinydet.backbones.backbone import Backbone
from tinydet.backbones.resnet import ResNet, ResNetConfig


class ResNetPyramid(Backbone):
    """Maps at strides 4, 8, 16, 32 and 64, each with as many channels; names are torchvision's (`body`, `fpn`)."""

    def __init__(self, config: ResNetConfig, in_channels: int, pyramid_channels: int) -> None:
        super().__init__()
        self.body = ResNet(config, in_channels, last_stage=4, single_map=False)
        self.fpn = FeaturePyramidNetwork(list(self.body.channels), pyramid_channels, LastLevelMaxPool())
        self.channels = (pyramid_channels,) * 5
        self.strides = (*self.body.strides, 2 * self.body.strides[-1])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.body(images)
        return tuple(self.fpn(OrderedDict((str(level), x) for level, x in enumerate(maps))).values())
