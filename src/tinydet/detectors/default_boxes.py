"""SSD's default boxes: the anchors that it corrects (Liu et al. 2016, section 2.2), as shares of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Shape = tuple[float, float]
"""Scale and ratio: a box of scale s and ratio a is s * sqrt(a) of the image's width and s / sqrt(a) of its height."""


def evenly_scaled_shapes(
    maps: int, smallest: float, largest: float, ratios: tuple[float, ...]
) -> tuple[tuple[Shape, ...], ...]:
    """Liu et al. 2016, Eq. 4: scales evenly spaced from map to map.

    Each cell has a square of its map's scale, a square of the geometric mean of that scale and the next map's (1 after
    the last), and for each of `ratios` a box of that ratio and one of its inverse.
    """
    if maps < 2:
        raise ValueError(f"scales are spaced over at least two maps, not {maps}")
    scales = [smallest + (largest - smallest) * level / (maps - 1) for level in range(maps)] + [1.0]
    return tuple(
        ((scale, 1.0), (math.sqrt(scale * following), 1.0))
        + tuple((scale, shape) for ratio in ratios for shape in (ratio, 1 / ratio))
        for scale, following in pairwise(scales)
    )


@dataclass(frozen=True)
class DefaultBoxConfig:
    """Default boxes at every cell of every map.

    Attributes:
        shapes: one tuple a map, of (scale, ratio) pairs; no side is longer than the image's.
    """

    shapes: tuple[tuple[Shape, ...], ...]

    def __post_init__(self) -> None:
        if not self.shapes or any(not shapes for shapes in self.shapes):
            raise ValueError("every map needs at least one default box")
        if any(scale <= 0 or ratio <= 0 for shapes in self.shapes for scale, ratio in shapes):
            raise ValueError(f"default boxes need positive scales and ratios, not {self.shapes}")

    def per_cell(self) -> tuple[int, ...]:
        return tuple(len(shapes) for shapes in self.shapes)


DEFAULT_BOXES_3000 = DefaultBoxConfig(evenly_scaled_shapes(6, 0.2, 0.95, (2.0, 3.0)))
"""Six at each cell of the 19, 10, 5, 3, 2 and 1 cells a side of a 300x300 input: 3,000, as in Ko and Yoo, III.A."""

DEFAULT_BOXES_1917 = DefaultBoxConfig((((0.1, 1.0), (0.2, 2.0), (0.2, 0.5)), *DEFAULT_BOXES_3000.shapes[1:]))
"""The common layout of MobileNet-SSD: three at the finest map, one of them small, and six elsewhere."""


def default_boxes(
    config: DefaultBoxConfig, map_sizes_hw: Sequence[tuple[int, int]], image_hw: tuple[int, int]
) -> Tensor:
    """`[A, 4]` xyxy in input pixels: map by map, cell by cell in rows, a cell's boxes in the order of its shapes."""
    if len(map_sizes_hw) != len(config.shapes):
        raise ValueError(f"default boxes for {len(config.shapes)} maps, but there are {len(map_sizes_hw)}")
    height, width = image_hw
    levels = []
    for (rows, columns), shapes in zip(map_sizes_hw, config.shapes):
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        centres = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
        sides = torch.tensor([(scale * math.sqrt(ratio), scale / math.sqrt(ratio)) for scale, ratio in shapes])
        half = sides.clamp(max=1.0) / 2  # [shapes, 2], width first
        levels.append(torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4))
    return torch.cat(levels) * torch.tensor([width, height, width, height])
