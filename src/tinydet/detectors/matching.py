"""Which anchor or region stands for which object, and which of them are sampled for a loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

from tinydet.data.batch import Target

BACKGROUND = -1
UNDECIDED = -2


@dataclass(frozen=True)
class MatchConfig:
    """A box is an object from `positive_iou`, background below `negative_iou`, and undecided between.

    Attributes:
        best_counts: each object's best box stands for it, whatever their IoU (Ren et al. 2015, section 3.1.2).
    """

    positive_iou: float
    negative_iou: float
    best_counts: bool = False


def match(boxes_xyxy: Tensor, target: Target, config: MatchConfig) -> Tensor:
    """`[N]` index of the object that each of `[N, 4]` boxes stands for, else BACKGROUND or UNDECIDED.

    Background boxes that lie mostly within an ignored object are undecided too.
    """
    matches = boxes_xyxy.new_full((len(boxes_xyxy),), BACKGROUND, dtype=torch.int64)
    if len(target.boxes_xyxy) and len(boxes_xyxy):
        overlaps = box_iou(target.boxes_xyxy, boxes_xyxy)  # [objects, N]
        best_iou, best = overlaps.max(dim=0)
        matches[best_iou >= config.negative_iou] = UNDECIDED
        positive = best_iou >= config.positive_iou
        if config.best_counts:
            best_of_object = overlaps.max(dim=1, keepdim=True).values
            positive |= ((overlaps == best_of_object) & (best_of_object > 0)).any(dim=0)
        matches[positive] = best[positive]
    if len(target.ignored_xyxy) and len(boxes_xyxy):
        within = _share_within(boxes_xyxy, target.ignored_xyxy).amax(dim=1) > 0.5
        matches[within & (matches == BACKGROUND)] = UNDECIDED
    return matches


def sample(matches: Tensor, count: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Indices of at most `count` boxes, objects being at most `positive_fraction` of them: `(objects, background)`."""
    positives = torch.where(matches >= 0)[0]
    negatives = torch.where(matches == BACKGROUND)[0]
    positives = _some(positives, int(count * positive_fraction))
    return positives, _some(negatives, count - len(positives))


def _some(indices: Tensor, count: int) -> Tensor:
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]


def _share_within(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """`[N, M]` share of each box's area that lies within each of the others."""
    top_left = torch.maximum(boxes_xyxy[:, None, :2], others_xyxy[:, :2])
    bottom_right = torch.minimum(boxes_xyxy[:, None, 2:], others_xyxy[:, 2:])
    overlap = (bottom_right - top_left).clamp_min(0).prod(dim=2)
    return overlap / box_area(boxes_xyxy)[:, None].clamp_min(1e-6)
