"""The RoI mimic loss of Li et al. 2017 and of Quantization Mimic (Wei et al. 2018, Eq. 5 and 6).

    L_m = 1 / (2 N) * sum over N regions i of || Q(f_t^i) - Q(r(f_s^i)) ||^2

f^i are the features of region i, pooled from the teacher's and the student's maps; r is a 1x1 convolution to the
teacher's channels. (Pooling both to the same bins makes up for different strides.) Q is each side's own quantizer, or
nothing: the two switches of the paper's Tables 4 to 8 are the two detectors' configurations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinydet.detectors.roi_align import roi_align
from tinydet.quantizers import Quantizer, QuantizerConfig


@dataclass(frozen=True)
class MimicConfig:
    """How a student mimics.

    Attributes:
        weight: lambda of Eq. 4.
        regions: N, counted for each image; 128 for Faster R-CNN, 2000 for R-FCN (section 3.5).
        region_source: whose proposals the regions are (a one-stage detector's are its confident default boxes), or the
            labelled `objects`.
        output_size: bins along each side of a pooled region.
        per_entry: divide each region's squared distance by its number of entries, as Li et al. 2017 (Eq. 2) do with
            m_i. Off, the loss is Eq. 5 as written, whose size grows with the teacher's channels.
        maps: which of a detector's maps are mimicked, 0 being the finest; None: all, or SSD's `quantized_maps`.
    """

    weight: float = 1.0
    regions: int = 128
    region_source: Literal["teacher", "student", "objects"] = "teacher"
    output_size: int = 7
    per_entry: bool = False
    maps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.regions < 1 or self.output_size < 1 or not 0 <= self.weight < math.inf:
            raise ValueError(f"mimic loss of weight {self.weight} on {self.regions} regions of size {self.output_size}")


def mimic_loss(teacher_regions: Tensor, student_regions: Tensor, per_entry: bool = False) -> Tensor:
    """Eq. 5 and 6 for features `[N, C, P, P]` that are already transformed and quantized; 0 where N is 0."""
    squared = (teacher_regions - student_regions).square()
    entries = squared[0].numel() if per_entry and len(squared) else 1
    return squared.sum() / (2 * max(len(squared), 1) * entries)


class RegionMimic(nn.Module):
    """The loss with its transform r, one a map.

    Args:
        student_channels, teacher_channels: of each mimicked map, pairwise.
    """

    def __init__(
        self,
        config: MimicConfig,
        student_channels: tuple[int, ...],
        teacher_channels: tuple[int, ...],
        student_quantizer: QuantizerConfig | None,
        teacher_quantizer: QuantizerConfig | None,
    ) -> None:
        super().__init__()
        if len(student_channels) != len(teacher_channels):
            raise ValueError(f"the student has {len(student_channels)} maps, the teacher {len(teacher_channels)}")
        self.config = config
        self.transforms = nn.ModuleList(nn.Conv2d(s, t, 1) for s, t in zip(student_channels, teacher_channels))
        self.student_quantizer: nn.Module = Quantizer(student_quantizer) if student_quantizer else nn.Identity()
        self.teacher_quantizer: nn.Module = Quantizer(teacher_quantizer) if teacher_quantizer else nn.Identity()

    def pooled(
        self,
        level: int,
        teacher_map: Tensor,
        student_map: Tensor,
        teacher_stride: int,
        student_stride: int,
        boxes_xyxy: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Q(f_t^i) and Q(r(f_s^i)), `[N, C, P, P]` each, of one image's `[C, H, W]` maps and `[N, 4]` regions."""
        size = self.config.output_size
        with torch.no_grad():
            teacher = self.teacher_quantizer(roi_align(teacher_map[None], [boxes_xyxy], teacher_stride, size))
        transform = self.transforms[level]
        assert isinstance(transform, nn.Conv2d)
        assert transform.bias is not None
        if _cheaper_on_the_map(transform, student_map, len(boxes_xyxy), size):
            moved = F.conv2d(student_map[None], transform.weight)
            student = roi_align(moved, [boxes_xyxy], student_stride, size) + transform.bias[:, None, None]
        else:
            student = transform(roi_align(student_map[None], [boxes_xyxy], student_stride, size))
        return teacher, self.student_quantizer(student)

    def forward(
        self,
        level: int,
        teacher_map: Tensor,
        student_map: Tensor,
        teacher_stride: int,
        student_stride: int,
        boxes_xyxy: Tensor,
    ) -> Tensor:
        """The loss of one image and one map, without lambda; arguments as for `pooled`."""
        teacher, student = self.pooled(
            level, teacher_map, student_map, teacher_stride, student_stride, boxes_xyxy[: self.config.regions]
        )
        return mimic_loss(teacher, student, self.config.per_entry)


def _cheaper_on_the_map(transform: nn.Conv2d, student_map: Tensor, regions: int, size: int) -> bool:
    """Whether r before pooling takes less time than after it. Both are linear, so the values are the same.

    A narrow student's few channels are pooled first; a map as wide as the teacher's is transformed first.
    """
    before, after = transform.in_channels, transform.out_channels
    height, width = student_map.shape[-2:]
    pooling = regions * size * height * (width + size)  # multiply-adds of one channel, as two matrix products
    pooling *= 8  # small products run at about an eighth of a convolution's speed
    return (height * width * before + pooling) * after < (pooling + regions * size**2 * after) * before
