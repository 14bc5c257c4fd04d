"""Online hard example mining (Shrivastava et al. 2016): all regions are scored, and only the hardest teach."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from tinydet.data.batch import Target
from tinydet.detectors.box_coding import encode
from tinydet.detectors.matching import BACKGROUND, MatchConfig, match
from tinydet.detectors.outputs import RegionPredictions, RegionTargets
from tinydet.detectors.regions import WEIGHTS, RegionConfig, losses_by_region


@torch.no_grad()
def all_regions(
    proposals_xyxy: list[Tensor], targets: tuple[Target, ...], config: MatchConfig
) -> tuple[list[Tensor], RegionTargets]:
    """Every proposal and every object's own box, with what each should be; label -1 where that is undecided."""
    boxes, labels, deltas = [], [], []
    for proposals, target in zip(proposals_xyxy, targets):
        candidates = torch.cat([proposals, target.boxes_xyxy.to(proposals.dtype)])
        matches = match(candidates, target, config)
        objects = torch.where(matches >= 0)[0]
        label = torch.where(matches == BACKGROUND, 0, torch.full_like(matches, -1))
        label[objects] = target.labels[matches[objects]] + 1
        wanted = candidates.new_zeros(len(candidates), 4)
        wanted[objects] = encode(target.boxes_xyxy[matches[objects]], candidates[objects], WEIGHTS)
        boxes.append(candidates)
        labels.append(label)
        deltas.append(wanted)
    return boxes, RegionTargets(torch.cat(labels), torch.cat(deltas))


@torch.no_grad()
def hardest_regions(losses: Tensor, boxes_xyxy: Tensor, labels: Tensor, count: int, nms_iou: float) -> Tensor:
    """Indices of the `count` regions with the greatest `[R]` losses, of those that overlap much only the hardest.

    Regions on one object share its loss; without suppression it would be counted many times (section 4.2).
    """
    decided = torch.where(labels >= 0)[0]
    kept = nms(boxes_xyxy[decided].float(), losses[decided].float(), nms_iou)
    return decided[kept[:count]]


def hard_region_losses(
    regions: RegionPredictions, config: RegionConfig, hardest: int, nms_iou: float
) -> dict[str, Tensor]:
    """The mean over each image's hardest regions, then over images; the rest has no part in the sum or its gradient."""
    assert regions.targets is not None
    class_losses, box_losses = losses_by_region(regions, config)
    counts = [len(boxes) for boxes in regions.boxes_xyxy]
    class_means, box_means = [], []
    for boxes, labels, class_loss, box_loss in zip(
        regions.boxes_xyxy, regions.targets.labels.split(counts), class_losses.split(counts), box_losses.split(counts)
    ):
        chosen = hardest_regions(class_loss + box_loss, boxes, labels, hardest, nms_iou)
        class_means.append(class_loss[chosen].sum() / max(len(chosen), 1))
        box_means.append(box_loss[chosen].sum() / max(len(chosen), 1))
    return {"detection_class": torch.stack(class_means).mean(), "detection_box": torch.stack(box_means).mean()}
