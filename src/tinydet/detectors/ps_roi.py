"""Position-sensitive RoI pooling (Dai et al. 2016, Eq. 1): each bin of a region reads its own map.

Of `D * k * k` maps, bin (i, j) of output d reads map `(d * k + i) * k + j`, i counting rows from the top and j columns
from the left.

Bins are averaged by torchvision's `ps_roi_align`, not by the original `ps_roi_pool`: that one rounds a bin to whole
cells, and at stride 16 the nine bins of a small face then cover the same cell or none. Aligned bins keep the position
that they are named after.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import ps_roi_align as torchvision_ps_roi_align

SAMPLES_PER_BIN = 2


def ps_roi_align(maps: Tensor, boxes_xyxy: list[Tensor], stride: int, bins: int) -> Tensor:
    """`[R, D, bins, bins]` from `[B, D * bins * bins, H, W]` maps and one `[R_i, 4]` an image in input pixels.

    No gradient flows to the boxes. Maps in half precision are pooled in float32, for which torchvision has a kernel on
    every device.
    """
    dtype = torch.promote_types(maps.dtype, torch.float32)
    regions = [boxes.to(dtype) for boxes in boxes_xyxy]
    return torchvision_ps_roi_align(maps.to(dtype), regions, bins, 1 / stride, SAMPLES_PER_BIN)


def vote(pooled: Tensor) -> Tensor:
    """`[R, D, k, k]` to `[R, D]`: every bin has one vote (Dai et al. 2016, section 2)."""
    return pooled.mean(dim=(2, 3))
