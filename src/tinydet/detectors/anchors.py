"""Anchors: the boxes that a proposal network or a one-stage detector corrects."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AnchorConfig:
    """Anchors at every cell of every map.

    Attributes:
        sides: one tuple a map; the side in input pixels of the square with the anchor's area.
        ratios: height divided by width.
        rounded: corners at whole pixels, as torchvision's; Detectron2's are not.
    """

    sides: tuple[tuple[float, ...], ...] = ((128.0, 256.0, 512.0),)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rounded: bool = True

    def __post_init__(self) -> None:
        if (
            not self.sides
            or not self.ratios
            or min(min(s, default=0) for s in self.sides) <= 0
            or min(self.ratios) <= 0
        ):
            raise ValueError(f"anchors need positive sides and ratios, not {self.sides} and {self.ratios}")

    @property
    def per_cell(self) -> int:
        """Anchors at each cell; every map has as many."""
        counts = {len(sides) * len(self.ratios) for sides in self.sides}
        if len(counts) != 1:
            raise ValueError(f"every map needs as many anchor sides: {self.sides}")
        return counts.pop()


FASTER_RCNN_ANCHORS = AnchorConfig()
"""3 ratios and 3 scales (Ren et al. 2015, section 3.3)."""

QUANTIZATION_MIMIC_RESNET_ANCHORS = AnchorConfig(sides=((64.0, 128.0, 256.0),), ratios=(2.0, 3.0))
"""2 ratios, 2:1 and 3:1, and 3 scales of 4, 8 and 16 cells at stride 16 (Wei et al. 2018, section 3.5)."""

QUANTIZATION_MIMIC_RFCN_ANCHORS = AnchorConfig(sides=((64.0, 128.0, 256.0, 512.0),), ratios=(1.0,))
"""1 ratio and 4 scales of 4, 8, 16 and 32 cells at stride 16 (Wei et al. 2018, section 3.5)."""

FPN_ANCHORS = AnchorConfig(sides=((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)))
"""One side a level, P2 to P6 (Lin et al. 2017, section 4.1)."""


def cell_anchors(sides: tuple[float, ...], ratios: tuple[float, ...], rounded: bool = True) -> Tensor:
    """`[len(ratios) * len(sides), 4]` anchors around the origin, sides varying fastest."""
    side = torch.tensor(sides, dtype=torch.float64)
    height_factor = torch.tensor(ratios, dtype=torch.float64).sqrt()
    widths = (side[None, :] / height_factor[:, None]).flatten()
    heights = (side[None, :] * height_factor[:, None]).flatten()
    corners = torch.stack([-widths, -heights, widths, heights], dim=1) / 2
    return (corners.round() if rounded else corners).float()


def anchors_of_map(cells: Tensor, size_hw: tuple[int, int], stride: int) -> Tensor:
    """`[H * W * len(cells), 4]` anchors of one map, cell by cell in rows; the first cell's are around the origin."""
    height, width = size_hw
    y, x = torch.meshgrid(
        torch.arange(height, device=cells.device, dtype=torch.float32) * stride,
        torch.arange(width, device=cells.device, dtype=torch.float32) * stride,
        indexing="ij",
    )
    shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (shifts + cells).reshape(-1, 4)
