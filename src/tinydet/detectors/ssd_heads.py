"""What SSD adds to a backbone: coarser maps, and predictors on every map (Liu et al. 2016, section 2.1)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinydet.backbones.resnet import initialize
from tinydet.detectors.proposals import by_anchor

Predictor = Literal["3x3", "1x1", "lite"]
"""`3x3`: SSD's own; `1x1`: of the published MobileNet-SSDs, nine times smaller; `lite`: depthwise-separable, SSDLite's
(Sandler et al. 2018, section 6.2)."""

_EPS = 1e-3  # as in MobileNet, beside which these layers stand
_OBJECT_SHARE = 0.25  # of the counted boxes, with three mined background boxes to an object


class ConvNormReLU(nn.Module):
    """A convolution, batch norm and ReLU6. A channel of a single value has no variance: it is normalised as at test."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(after, eps=_EPS)
        self.relu = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x, norm = self.conv(x), self.norm
        if self.training and x.numel() == x.shape[1]:
            return self.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps))
        return self.relu(norm(x))


class ExtraLayers(nn.ModuleList):
    """One map after another, each with half the cells of the one before: 1x1, then 3x3 at stride 2."""

    def __init__(self, channels: int, out_channels: tuple[int, ...], separable: bool) -> None:
        layers = []
        for after in out_channels:
            between = max(1, after // 2)
            last = [ConvNormReLU(between, after, 3, 2)]
            if separable:
                last = [ConvNormReLU(between, between, 3, 2, groups=between), ConvNormReLU(between, after, 1)]
            layers.append(nn.Sequential(ConvNormReLU(channels, between, 1), *last))
            channels = after
        super().__init__(layers)
        initialize(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for layer in self:
            x = layer(x)
            maps.append(x)
        return tuple(maps)


class DensePredictors(nn.Module):
    """Scores and offsets for every default box of every map."""

    def __init__(self, channels: tuple[int, ...], per_cell: tuple[int, ...], classes: int, kind: Predictor) -> None:
        super().__init__()
        self.classes = classes
        pairs = list(zip(channels, per_cell))
        self.class_scores = nn.ModuleList(_predictor(kind, before, boxes * (classes + 1)) for before, boxes in pairs)
        self.box_deltas = nn.ModuleList(_predictor(kind, before, boxes * 4) for before, boxes in pairs)
        for scores in self.class_scores:
            _start_with_shares(list(scores.parameters())[-1], classes)

    def forward(self, features: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """One `[B, C_l, H_l, W_l]` a map to logits `[B, A, classes + 1]` and deltas `[B, A, 4]`."""
        logits = [by_anchor(layer(x), self.classes + 1) for layer, x in zip(self.class_scores, features)]
        deltas = [by_anchor(layer(x), 4) for layer, x in zip(self.box_deltas, features)]
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1)


class SSDHeads(nn.Module):
    """All that comes after the backbone."""

    def __init__(self, extras: ExtraLayers, predictors: DensePredictors) -> None:
        super().__init__()
        self.extras, self.predictors = extras, predictors


def _predictor(kind: Predictor, before: int, after: int) -> nn.Sequential:
    kernel = 3 if kind == "3x3" else 1
    last = nn.Conv2d(before, after, kernel, padding=kernel // 2)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.get_parameter("bias"))
    if kind != "lite":
        return nn.Sequential(last)
    depthwise = ConvNormReLU(before, before, 3, groups=before)
    initialize(depthwise)
    return nn.Sequential(depthwise, last)


def _start_with_shares(bias: Tensor, classes: int) -> None:
    """Scores begin at the shares in which boxes are counted, so that the first steps are not spent on learning them."""
    with torch.no_grad():
        bias.reshape(-1, classes + 1)[:, 0] = math.log((1 - _OBJECT_SHARE) * classes / _OBJECT_SHARE)
