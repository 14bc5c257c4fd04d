"""The first step of every detector: pixels in 0..255 to normalised input."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tinydet.data.batch import Batch
from tinydet.preprocessing import Preprocessing


def normalized(batch: Batch, preprocessing: Preprocessing) -> Tensor:
    """`[B, C, H, W]` images less the mean, over the deviation; 0 beyond each image, as around it."""
    mean = batch.images.new_tensor(preprocessing.mean)[:, None, None]
    std = batch.images.new_tensor(preprocessing.std)[:, None, None]
    x = (batch.images - mean) / std
    height, width = x.shape[-2:]
    if any(size_hw != (height, width) for size_hw in batch.sizes_hw):
        rows = torch.arange(height, device=x.device)
        columns = torch.arange(width, device=x.device)
        sizes = torch.tensor(batch.sizes_hw, device=x.device)
        inside = (rows < sizes[:, :1])[:, :, None] & (columns < sizes[:, 1:])[:, None, :]  # [B, H, W]
        x = x * inside[:, None]
    divisor = preprocessing.size_divisor
    return F.pad(x, (0, -width % divisor, 0, -height % divisor)) if divisor > 1 else x
