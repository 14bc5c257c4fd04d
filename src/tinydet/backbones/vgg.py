"""VGG16 at any width (Simonyan and Zisserman 2015), to conv5_3 at stride 16, without the fifth pooling.

Names are torchvision's (`features.N`), those of vgg16_bn where there is batch normalization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from tinydet.backbones.backbone import Backbone, RegionTrunk
from tinydet.backbones.normalization import Normalization, normalization_layer
from tinydet.backbones.resnet import initialize
from tinydet.backbones.width import depthwise_channels, divided_channels, grouped_channels

_LAYERS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)


@dataclass(frozen=True)
class VGGConfig:
    """VGG16.

    Attributes:
        width_divisor: n of a `-1-n` network.
        normalization: the paper's VGG has none and starts from ImageNet; from scratch it needs `batch`.
        groups: of each convolution but the first, whose one or three channels are not split; 1 is a plain network.
            `depthwise` makes each a depthwise 3x3 and a pointwise convolution. Channels grow so that a layer costs
            what it did (Wei et al. 2018, Table 3).
    """

    width_divisor: float = 1
    normalization: Normalization = "batch"
    groups: int | Literal["depthwise"] = 1

    def __post_init__(self) -> None:
        if self.groups != "depthwise" and self.groups < 1:
            raise ValueError(f"convolutions in {self.groups} groups; expected 1, 2, 3, ... or depthwise")

    def channels_of_layer(self, full: int) -> int:
        """Channels of a convolution that has `full` in VGG16."""
        channels = divided_channels(full, self.width_divisor)
        return depthwise_channels(channels) if self.groups == "depthwise" else grouped_channels(channels, self.groups)


class VGG(Backbone):
    def __init__(self, config: VGGConfig, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = in_channels
        for entry in _LAYERS:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2, 2))
                continue
            channels = config.channels_of_layer(entry)
            if not layers:
                layers += _activated(nn.Conv2d(previous, channels, 3, padding=1), config)
            elif config.groups == "depthwise":
                layers += _activated(nn.Conv2d(previous, previous, 3, padding=1, groups=previous), config)
                layers += _activated(nn.Conv2d(previous, channels, 1), config)
            else:
                layers += _activated(nn.Conv2d(previous, channels, 3, padding=1, groups=config.groups), config)
            previous = channels
        self.features = nn.Sequential(*layers)
        self.channels, self.strides = (previous,), (16,)
        initialize(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.features(images),)


def _activated(convolution: nn.Conv2d, config: VGGConfig) -> list[nn.Module]:
    if config.normalization == "none":
        return [convolution, nn.ReLU(inplace=True)]
    return [convolution, normalization_layer(config.normalization)(convolution.out_channels), nn.ReLU(inplace=True)]


class VGGRegionTrunk(RegionTrunk):
    """fc6 and fc7 on each region's cells."""

    def __init__(self, config: VGGConfig, region_size: int) -> None:
        super().__init__()
        in_features = config.channels_of_layer(512) * region_size**2
        self.out_channels = divided_channels(4096, config.width_divisor)
        self.fc6 = nn.Linear(in_features, self.out_channels)
        self.fc7 = nn.Linear(self.out_channels, self.out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, regions: Tensor) -> Tensor:
        return self.relu(self.fc7(self.relu(self.fc6(regions.flatten(1)))))
