"""SSD's training objective (Liu et al. 2016, section 2.2): matching, hard negative mining, and the two losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from tinydet.data.batch import Target
from tinydet.detectors.box_coding import Weights, encode
from tinydet.detectors.matching import BACKGROUND, MatchConfig, match
from tinydet.detectors.outputs import DensePredictions
from tinydet.processes import mean_over_processes

NOT_COUNTED = -1


@dataclass(frozen=True)
class SSDLossConfig:
    """What default boxes should be, and which of them count.

    Attributes:
        positive_iou: a default box is an object from this IoU; each object's best box is one whatever their IoU.
        negatives_per_positive: background boxes counted for each object box of an image, those of largest loss.
        fewest_negatives: background boxes counted in an image with fewer objects; above 0, images without any object
            are learned from too.
        box_weight: alpha of Eq. 1.
        box_beta: where smooth L1 turns from square to straight.
    """

    positive_iou: float = 0.5
    negatives_per_positive: float = 3.0
    fewest_negatives: int = 0
    box_weight: float = 1.0
    box_beta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.positive_iou <= 1 or self.negatives_per_positive < 0 or self.fewest_negatives < 0:
            raise ValueError(f"not a way to choose default boxes: {self}")


@dataclass(frozen=True)
class DenseTargets:
    """What each default box should be.

    Attributes:
        labels: `[B, A]` int64; 0 is background, class c is c + 1, NOT_COUNTED where an ignored object is.
        deltas: `[B, A, 4]`, 0 where a box is no object.
    """

    labels: Tensor
    deltas: Tensor

    @property
    def objects(self) -> Tensor:
        """`[B, A]` bool."""
        return self.labels > 0

    @property
    def count(self) -> Tensor:
        """N of Eq. 1: boxes of the whole batch that are an object, the mean over processes, at least 1."""
        return mean_over_processes(self.objects.sum()).clamp_min(1)


def match_default_boxes(boxes_xyxy: Tensor, target: Target, positive_iou: float) -> Tensor:
    """`[A]` index of the object that each default box stands for, else BACKGROUND or UNDECIDED.

    A box that is the best of several objects stands for the last of them.
    """
    matches = match(boxes_xyxy, target, MatchConfig(positive_iou, positive_iou))
    if len(target.boxes_xyxy) == 0:
        return matches
    best_box = box_iou(target.boxes_xyxy, boxes_xyxy).argmax(dim=1)
    objects = torch.arange(len(best_box), device=matches.device)
    forced = torch.full_like(matches, -1).scatter_reduce(0, best_box, objects, "amax")  # the same on every device
    return torch.where(forced >= 0, forced, matches)


@torch.no_grad()
def dense_targets(
    anchors_xyxy: Tensor, weights: Weights, targets: tuple[Target, ...], config: SSDLossConfig
) -> DenseTargets:
    """What every default box of every image should be."""
    labels, deltas = [], []
    for target in targets:
        matches = match_default_boxes(anchors_xyxy, target, config.positive_iou)
        objects = torch.where(matches >= 0)[0]
        label = torch.where(matches == BACKGROUND, 0, NOT_COUNTED)
        label[objects] = target.labels[matches[objects]] + 1
        delta = anchors_xyxy.new_zeros(len(anchors_xyxy), 4)
        delta[objects] = encode(target.boxes_xyxy[matches[objects]], anchors_xyxy[objects], weights)
        labels.append(label)
        deltas.append(delta)
    return DenseTargets(torch.stack(labels), torch.stack(deltas))


@torch.no_grad()
def counted_boxes(class_losses: Tensor, labels: Tensor, config: SSDLossConfig) -> Tensor:
    """`[B, A]` bool: objects, and the background boxes of largest loss.

    Args:
        class_losses: `[B, A]` cross-entropy of each default box.
        labels: as in `DenseTargets`.
    """
    objects = labels > 0
    wanted = (config.negatives_per_positive * objects.sum(dim=1, keepdim=True)).clamp_min(config.fewest_negatives)
    background_losses = class_losses.masked_fill(labels != 0, -torch.inf)
    rank = background_losses.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return objects | ((rank < wanted) & (labels == 0))


def class_losses_by_box(logits: Tensor, labels: Tensor) -> Tensor:
    """`[B, A]` cross-entropy of `[B, A, classes + 1]` logits, 0 where a box is not counted."""
    return F.cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=NOT_COUNTED, reduction="none")


def ssd_losses(dense: DensePredictions, targets: tuple[Target, ...], config: SSDLossConfig) -> dict[str, Tensor]:
    """Eq. 1: cross-entropy of the counted boxes and smooth L1 of the objects, both over N, the batch's object boxes."""
    wanted = dense_targets(dense.anchors_xyxy, dense.weights, targets, config)
    by_box = class_losses_by_box(dense.logits, wanted.labels)
    counted = counted_boxes(by_box, wanted.labels, config)
    errors = F.smooth_l1_loss(
        dense.deltas[wanted.objects].float(), wanted.deltas[wanted.objects], beta=config.box_beta, reduction="sum"
    )
    return {
        "detection_class": by_box[counted].sum() / wanted.count,
        "detection_box": config.box_weight * errors / wanted.count,
    }
