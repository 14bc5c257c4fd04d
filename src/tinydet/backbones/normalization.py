"""Batch normalization: trained, frozen, or absent."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

Normalization = Literal["batch", "frozen", "none"]
"""`batch`: statistics and scales are trained (from scratch); `frozen`: neither changes (from pretrained weights, where
a batch of one or two images says too little); `none`: no such layer, the convolutions have biases."""


def normalization_layer(choice: Normalization, eps: float = 1e-5) -> Callable[[int], nn.Module]:
    """What makes the layer for a number of channels."""
    match choice:
        case "batch":
            return partial(nn.BatchNorm2d, eps=eps)
        case "frozen":
            return partial(FrozenBatchNorm2d, eps=eps)
        case "none":
            return lambda channels: nn.Identity()
