"""A batch: what the loader gives and every step takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """What is to be found in one image, in the pixels of the resized image.

    Attributes:
        boxes_xyxy: `[N, 4]` float32.
        labels: `[N]` int64, indices into the classes from 0.
        ignored_xyxy: `[M, 4]` float32; difficult objects and crowds, which training neither asks for nor punishes.
    """

    boxes_xyxy: Tensor
    labels: Tensor
    ignored_xyxy: Tensor

    def to(self, device: torch.device) -> Target:
        return Target(self.boxes_xyxy.to(device), self.labels.to(device), self.ignored_xyxy.to(device))


@dataclass(frozen=True)
class Batch:
    """Images of different sizes, padded to one tensor.

    Attributes:
        images: `[B, C, H, W]` float32 in 0..255 (a detector normalises), zero right of and below each image.
        sizes_hw: height and width of each image within `images`.
        original_sizes_hw: of each image before it was resized.
        targets: one an image; empty where the batch is only to be detected in.
        image_ids: one an image, for messages.
        view_ids: one an image; the same text means the same pixels, so that a teacher's outputs can be kept.
    """

    images: Tensor
    sizes_hw: tuple[tuple[int, int], ...]
    original_sizes_hw: tuple[tuple[int, int], ...]
    targets: tuple[Target, ...]
    image_ids: tuple[str, ...]
    view_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sizes_hw)

    def of_image(self, index: int) -> Batch:
        """One image alone, without the padding that its neighbours needed."""
        height, width = self.sizes_hw[index]
        one = slice(index, index + 1)
        return Batch(
            self.images[one, :, :height, :width],
            self.sizes_hw[one],
            self.original_sizes_hw[one],
            self.targets[one],
            self.image_ids[one],
            self.view_ids[one],
        )

    def to(self, device: torch.device) -> Batch:
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            targets=tuple(target.to(device) for target in self.targets),
        )
