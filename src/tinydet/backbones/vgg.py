"""VGG16 at any width (Simonyan and Zisserman 2015), to conv5_3 at stride 16, without the fifth pooling.

Names are torchvision's (`features.N`), those of vgg16_bn where there is batch normalization.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tinydet.backbones.backbone import Backbone, RegionTrunk
from tinydet.backbones.normalization import Normalization, normalization_layer
from tinydet.backbones.resnet import initialize
from tinydet.backbones.width import divided_channels

_LAYERS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512)


@dataclass(frozen=True)
class VGGConfig:
    """VGG16.

    Attributes:
        width_divisor: n of a `-1-n` network.
        normalization: the paper's VGG has none and starts from ImageNet; from scratch it needs `batch`.
    """

    width_divisor: float = 1
    normalization: Normalization = "batch"


class VGG(Backbone):
    def __init__(self, config: VGGConfig, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = in_channels
        for entry in _LAYERS:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2, 2))
                continue
            channels = divided_channels(entry, config.width_divisor)
            layers.append(nn.Conv2d(previous, channels, 3, padding=1))
            if config.normalization != "none":
                layers.append(normalization_layer(config.normalization)(channels))
            layers.append(nn.ReLU(inplace=True))
            previous = channels
        self.features = nn.Sequential(*layers)
        self.channels, self.strides = (previous,), (16,)
        initialize(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.features(images),)


class VGGRegionTrunk(RegionTrunk):
    """fc6 and fc7 on each region's cells."""

    def __init__(self, config: VGGConfig, region_size: int) -> None:
        super().__init__()
        in_features = divided_channels(512, config.width_divisor) * region_size**2
        self.out_channels = divided_channels(4096, config.width_divisor)
        self.fc6 = nn.Linear(in_features, self.out_channels)
        self.fc7 = nn.Linear(self.out_channels, self.out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, regions: Tensor) -> Tensor:
        return self.relu(self.fc7(self.relu(self.fc6(regions.flatten(1)))))
