"""Box offsets: how a box differs from its anchor, proposal or default box (Girshick et al. 2014, appendix C)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Weights = tuple[float, float, float, float]
_LARGEST_LOG_SCALE = math.log(1000.0 / 16)


def encode(boxes_xyxy: Tensor, anchors_xyxy: Tensor, weights: Weights) -> Tensor:
    """`[N, 4]` offsets (x, y, log w, log h), each multiplied by its weight."""
    anchor_sizes = anchors_xyxy[:, 2:] - anchors_xyxy[:, :2]
    sizes = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    anchor_centres = anchors_xyxy[:, :2] + anchor_sizes / 2
    centres = boxes_xyxy[:, :2] + sizes / 2
    offsets = torch.cat([(centres - anchor_centres) / anchor_sizes, torch.log(sizes / anchor_sizes)], dim=1)
    return offsets * offsets.new_tensor(weights)


def decode(deltas: Tensor, anchors_xyxy: Tensor, weights: Weights) -> Tensor:
    """The inverse of `encode`: `[..., 4]` boxes; growth is limited so that the exponential cannot overflow."""
    offsets = deltas / deltas.new_tensor(weights)
    anchor_sizes = anchors_xyxy[..., 2:] - anchors_xyxy[..., :2]
    centres = anchors_xyxy[..., :2] + anchor_sizes / 2 + offsets[..., :2] * anchor_sizes
    half = torch.exp(offsets[..., 2:].clamp(max=_LARGEST_LOG_SCALE)) * anchor_sizes / 2
    return torch.cat([centres - half, centres + half], dim=-1)


def clip_boxes(boxes_xyxy: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Boxes `[..., 4]` cut to an image of this height and width."""
    x = boxes_xyxy[..., 0::2].clamp(0, size_hw[1])
    y = boxes_xyxy[..., 1::2].clamp(0, size_hw[0])
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)
