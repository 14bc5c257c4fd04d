"""ResNet18 and ResNet50 at any width (He et al. 2016), from torchvision's blocks.

The C4 form: conv1 to layer3 make one map at stride 16, and layer4 is applied to each region (He et al. 2016, appendix
A; Ren et al. 2015). Names are torchvision's, so that its weights load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from tinydet.backbones.backbone import Backbone, RegionTrunk
from tinydet.backbones.normalization import Normalization, normalization_layer
from tinydet.backbones.width import divided_channels

_BLOCKS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
}


@dataclass(frozen=True)
class ResNetConfig:
    """A ResNet.

    Attributes:
        width_divisor: n of a `-1-n` network.
        stride_in_first: of a ResNet50's blocks, the first 1x1 convolution has the stride, as in the original (and in
            Detectron2's weights), not the 3x3 one, as in torchvision's.
    """

    depth: Literal[18, 50] = 18
    width_divisor: float = 1
    normalization: Normalization = "batch"
    stride_in_first: bool = False

    def channels_of_stage(self, stage: int) -> int:
        """Output channels of layer `stage`, 1 to 4."""
        return divided_channels(64 * 2 ** (stage - 1), self.width_divisor) * _BLOCKS[self.depth][0].expansion


def _stage(config: ResNetConfig, stage: int, in_channels: int) -> nn.Sequential:
    block, counts = _BLOCKS[config.depth]
    norm: Callable[..., nn.Module] = normalization_layer(config.normalization)
    planes = divided_channels(64 * 2 ** (stage - 1), config.width_divisor)
    out_channels, stride = planes * block.expansion, 1 if stage == 1 else 2
    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), norm(out_channels))
    blocks = [block(in_channels, planes, stride, shortcut, norm_layer=norm)]
    if config.stride_in_first and isinstance(blocks[0], Bottleneck):
        blocks[0].conv1.stride, blocks[0].conv2.stride = blocks[0].conv2.stride, blocks[0].conv1.stride
    blocks += [block(out_channels, planes, norm_layer=norm) for _ in range(1, counts[stage - 1])]
    return nn.Sequential(*blocks)


class ResNet(Backbone):
    """conv1 and layer1 to `last_stage`. All stages' maps are returned, or with `single_map` the last one's alone."""

    def __init__(self, config: ResNetConfig, in_channels: int, last_stage: int = 3, single_map: bool = True) -> None:
        super().__init__()
        if config.normalization == "none":
            raise ValueError("a ResNet has batch normalization: choose batch or frozen")
        stem = divided_channels(64, config.width_divisor)
        self.conv1 = nn.Conv2d(in_channels, stem, 7, 2, 3, bias=False)
        self.bn1 = normalization_layer(config.normalization)(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        previous = stem
        self.stages: list[str] = []
        for stage in range(1, last_stage + 1):
            self.add_module(f"layer{stage}", _stage(config, stage, previous))
            self.stages.append(f"layer{stage}")
            previous = config.channels_of_stage(stage)
        self.single_map = single_map
        every = range(1, last_stage + 1)
        first = last_stage if single_map else 1
        self.channels = tuple(config.channels_of_stage(stage) for stage in every if stage >= first)
        self.strides = tuple(2 ** (stage + 1) for stage in every if stage >= first)
        initialize(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = []
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
            maps.append(x)
        return (x,) if self.single_map else tuple(maps)


class ResNetRegionTrunk(RegionTrunk):
    """layer4 on each region, then the mean over its cells."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.layer4 = _stage(config, 4, config.channels_of_stage(3))
        self.out_channels = config.channels_of_stage(4)
        initialize(self)

    def forward(self, regions: Tensor) -> Tensor:
        return self.layer4(regions).mean(dim=(2, 3))


def initialize(module: nn.Module) -> None:
    """He initialisation for ReLU networks (He et al. 2015), by fan out."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
