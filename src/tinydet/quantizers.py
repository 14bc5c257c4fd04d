"""Q: element-wise quantization of feature maps (Wei et al. 2018, section 3.1, Eq. 1 to 3; Table 6).

A value goes to the nearest code of a dictionary, at a midpoint to the lower one:
Q(x) = b where (a + b) / 2 < x <= (b + c) / 2 for adjacent codes a < b < c. The gradient passes as if Q were not there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class UniformQuantizerConfig:
    """Codes 0, s, 2s, 3s, ... (Eq. 2); the papers use s = 1."""

    stride: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.stride < math.inf:
            raise ValueError(f"quantizer stride {self.stride} is not positive and finite")


@dataclass(frozen=True)
class PowerOfTwoQuantizerConfig:
    """Codes 0 and 2^k for k from `lowest_exponent` to `highest_exponent` (Table 6; Zhou et al. 2017).

    The paper's dictionary has no lowest power; one is needed for a value to become 0.
    """

    lowest_exponent: int = -3
    highest_exponent: int = 8

    def __post_init__(self) -> None:
        if self.lowest_exponent > self.highest_exponent:
            raise ValueError(f"exponents {self.lowest_exponent} to {self.highest_exponent}")


QuantizerConfig = UniformQuantizerConfig | PowerOfTwoQuantizerConfig


class _StraightThrough(torch.autograd.Function):
    """Forward gives the codes, backward the full-precision gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor) -> Tensor:
        return codes.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class Quantizer(nn.Module):
    """Q for a tensor of any shape; values below 0 become 0."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config

    def codes(self, x: Tensor) -> Tensor:
        """The code of each entry, without gradient."""
        x = x.detach()
        match self.config:
            case UniformQuantizerConfig(stride):
                return torch.ceil(x / stride - 0.5).clamp_min(0) * stride
            case PowerOfTwoQuantizerConfig(lowest, highest):
                codes = torch.zeros_like(x)
                previous = 0.0
                for exponent in range(lowest, highest + 1):
                    code = 2.0**exponent
                    codes = codes + (x > (previous + code) / 2).to(x.dtype) * (code - previous)
                    previous = code
                return codes

    def forward(self, x: Tensor) -> Tensor:
        codes = self.codes(x)
        if torch.is_grad_enabled() and x.requires_grad:
            return _StraightThrough.apply(x, codes)  # type: ignore[no-untyped-call]
        return codes
