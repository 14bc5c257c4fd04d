"""From any image to the pixels a detector takes: one description for training, export, runtime and benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ChannelOrder = Literal["rgb", "bgr", "gray"]

LEAST_SIDE = 16
"""Pixels of a resized image; of fewer, a network that halves its input four times has nothing left."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a network's input.

    The image is resized (keeping its shape so that the shorter side is `shorter_side`, but the longer one at most
    `longer_side`, and no side less than `LEAST_SIDE`; or to `fixed_size_hw` exactly), its channels are ordered, and the
    network itself subtracts `mean` and divides by `std`, both in units of 0..255 and in the order of `channels`.

    Attributes:
        size_divisor: the network pads its input on the right and at the bottom to a multiple of this.
    """

    shorter_side: int = 600
    longer_side: int = 1000
    fixed_size_hw: tuple[int, int] | None = None
    channels: ChannelOrder = "rgb"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size_divisor: int = 1

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.channel_count:
            raise ValueError(
                f"{self.channels} takes {self.channel_count} means and deviations, not {self.mean}, {self.std}"
            )
        if self.shorter_side < 1 or self.longer_side < self.shorter_side:
            raise ValueError(f"shorter side {self.shorter_side}, longer side {self.longer_side}")

    @property
    def channel_count(self) -> int:
        return 1 if self.channels == "gray" else 3

    def resized_hw(self, size_hw: tuple[int, int], shorter_side: int | None = None) -> tuple[int, int]:
        """Height and width that an image of `size_hw` is resized to."""
        if self.fixed_size_hw is not None:
            return self.fixed_size_hw
        shorter = shorter_side or self.shorter_side
        scale = min(shorter / min(size_hw), self.longer_side / max(size_hw))
        least = min(LEAST_SIDE, shorter)
        return max(least, round(size_hw[0] * scale)), max(least, round(size_hw[1] * scale))

    def __call__(self, image: Image.Image, shorter_side: int | None = None) -> NDArray[np.uint8]:
        """The network's input for one image: `[H, W, C]` uint8, C being 1 or 3."""
        height, width = self.resized_hw((image.height, image.width), shorter_side)
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if self.channels == "gray":
            return np.asarray(image.convert("L"))[:, :, None]
        pixels = np.asarray(image.convert("RGB"))
        return pixels[:, :, ::-1] if self.channels == "bgr" else pixels
