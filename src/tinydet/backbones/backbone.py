"""What a detector needs of a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """A network from images to feature maps, one a level, from fine to coarse.

    Attributes:
        channels: of each map.
        strides: input pixels per cell of each map.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """`[B, C, H, W]` normalised images to one `[B, channels[l], ceil(H / strides[l]), ...]` map a level."""


class RegionTrunk(nn.Module, ABC):
    """The rest of the network, applied to each region's features: `[R, C, 7, 7]` to `[R, out_channels]`."""

    out_channels: int

    @abstractmethod
    def forward(self, regions: Tensor) -> Tensor: ...
