"""MobileNetV1 at any width (Howard et al. 2017): conv_pw_11 ends at stride 16, conv_pw_13 at stride 32.

Names follow the published TensorFlow weights (`conv_dw_1` to `conv_pw_13`, a batch norm beside each). Those were
trained with padding on the right and at the bottom alone; here it is one pixel on every side, which sees the same
network on an image moved by a few pixels, gives maps of the same size, and needs no operation of its own in a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tinydet.backbones.backbone import Backbone, RegionTrunk
from tinydet.backbones.normalization import Normalization, normalization_layer
from tinydet.backbones.resnet import initialize
from tinydet.backbones.width import divided_channels

_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)) + ((512, 1),) * 5 + ((1024, 2), (1024, 1))
"""Output channels and stride of the depthwise-separable blocks 1 to 13."""


@dataclass(frozen=True)
class MobileNetConfig:
    """MobileNetV1.

    Attributes:
        width_divisor: n of a `-1-n` network; 1 is the published width 1.0.
        frozen_blocks: from 1, conv1 and so many blocks keep the weights they start with, normalization included: from
            pretrained ones, half the cost of a training step is saved and little is lost.
    """

    width_divisor: float = 1
    normalization: Normalization = "batch"
    frozen_blocks: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.frozen_blocks <= len(_BLOCKS):
            raise ValueError(f"frozen blocks {self.frozen_blocks}: there are {len(_BLOCKS)}")

    def normalization_of_block(self, block: int) -> Normalization:
        return "frozen" if block <= self.frozen_blocks and self.frozen_blocks else self.normalization

    def channels_of_block(self, block: int) -> int:
        """Output channels of `conv_pw_<block>`; block 0 is conv1."""
        return divided_channels(32 if block == 0 else _BLOCKS[block - 1][0], self.width_divisor)


class MobileNetBlocks(nn.Module):
    """Depthwise-separable blocks `first` to `last`."""

    def __init__(self, config: MobileNetConfig, first: int, last: int) -> None:
        super().__init__()
        self.names: list[tuple[str, str]] = []
        for block in range(first, last + 1):
            norm = normalization_layer(config.normalization_of_block(block), eps=1e-3)
            before, after = config.channels_of_block(block - 1), config.channels_of_block(block)
            depthwise = nn.Conv2d(before, before, 3, _BLOCKS[block - 1][1], 1, groups=before, bias=False)
            for name, layer, channels in (
                (f"conv_dw_{block}", depthwise, before),
                (f"conv_pw_{block}", nn.Conv2d(before, after, 1, bias=False), after),
            ):
                self.add_module(name, layer)
                layer.requires_grad_(block > config.frozen_blocks)
                self.add_module(f"{name}_bn", norm(channels))
                self.names.append((name, f"{name}_bn"))
        self.relu = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in self.names:
            x = self.relu(self.get_submodule(norm)(self.get_submodule(convolution)(x)))
        return x


class MobileNet(Backbone):
    """conv1 and the blocks up to the last of `ends`; one map for each block in `ends`."""

    def __init__(self, config: MobileNetConfig, in_channels: int, ends: tuple[int, ...] = (11,)) -> None:
        super().__init__()
        if config.normalization == "none":
            raise ValueError("a MobileNet has batch normalization: choose batch or frozen")
        self.conv1 = nn.Conv2d(in_channels, config.channels_of_block(0), 3, 2, 1, bias=False)
        self.conv1.requires_grad_(config.frozen_blocks == 0)
        self.conv1_bn = normalization_layer(config.normalization_of_block(0), eps=1e-3)(config.channels_of_block(0))
        self.relu = nn.ReLU6(inplace=True)
        firsts = [1, *(end + 1 for end in ends[:-1])]
        self.parts = nn.ModuleList(MobileNetBlocks(config, first, last) for first, last in zip(firsts, ends))
        self.channels = tuple(config.channels_of_block(end) for end in ends)
        self.strides = tuple(2 * _stride_of_blocks(1, end) for end in ends)
        initialize(self)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = []
        x = self.relu(self.conv1_bn(self.conv1(images)))
        for part in self.parts:
            x = part(x)
            maps.append(x)
        return tuple(maps)


class MobileNetRegionTrunk(RegionTrunk):
    """Blocks 12 and 13 on each region, then the mean over its cells."""

    def __init__(self, config: MobileNetConfig) -> None:
        super().__init__()
        self.blocks = MobileNetBlocks(config, 12, 13)
        self.out_channels = config.channels_of_block(13)
        initialize(self)

    def forward(self, regions: Tensor) -> Tensor:
        return self.blocks(regions).mean(dim=(2, 3))


def _stride_of_blocks(first: int, last: int) -> int:
    stride = 1
    for block in range(first, last + 1):
        stride *= _BLOCKS[block - 1][1]
    return stride
