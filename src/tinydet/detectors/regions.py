"""The second stage that Faster R-CNN and R-FCN share: sampled regions, their losses, and final detections."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms

from tinydet.data.batch import Target
from tinydet.detectors.box_coding import Weights, clip_boxes, decode, encode
from tinydet.detectors.matching import MatchConfig, match, sample
from tinydet.detectors.outputs import DetectedTensors, DetectorOutputs, RegionPredictions, RegionTargets

WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True)
class RegionConfig:
    """How regions are pooled, sampled, and turned into detections.

    Attributes:
        output_size: bins along each side of a pooled region.
        batch, positive_fraction: regions sampled for the loss in each image.
        box_beta: where smooth L1 turns from square to straight.
        score_threshold, nms_iou, most: detections kept at test.
    """

    output_size: int = 7
    batch: int = 128
    positive_fraction: float = 0.25
    match: MatchConfig = field(default_factory=lambda: MatchConfig(0.5, 0.5))
    class_agnostic_boxes: bool = False
    box_beta: float = 1.0
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    most: int = 100


@torch.no_grad()
def sample_regions(
    proposals_xyxy: list[Tensor], targets: tuple[Target, ...], config: RegionConfig
) -> tuple[list[Tensor], RegionTargets]:
    """Regions to learn from: some of the proposals and of the objects' own boxes, with what each should be."""
    boxes, labels, deltas = [], [], []
    for proposals, target in zip(proposals_xyxy, targets):
        candidates = torch.cat([proposals, target.boxes_xyxy.to(proposals.dtype)])
        matches = match(candidates, target, config.match)
        positives, negatives = sample(matches, config.batch, config.positive_fraction)
        objects = matches[positives]
        boxes.append(torch.cat([candidates[positives], candidates[negatives]]))
        labels.append(torch.cat([target.labels[objects] + 1, target.labels.new_zeros(len(negatives))]))
        wanted = encode(target.boxes_xyxy[objects], candidates[positives], WEIGHTS)
        deltas.append(torch.cat([wanted, wanted.new_zeros(len(negatives), 4)]))
    return boxes, RegionTargets(torch.cat(labels), torch.cat(deltas))


def losses_by_region(regions: RegionPredictions, config: RegionConfig) -> tuple[Tensor, Tensor]:
    """`[R]` cross-entropy and `[R]` smooth L1 of each region, 0 where a region is not counted or not an object.

    Girshick 2015, Eq. 1 to 3.
    """
    assert regions.targets is not None
    labels = regions.targets.labels
    class_losses = F.cross_entropy(regions.logits, labels, ignore_index=-1, reduction="none")
    objects = torch.where(labels > 0)[0]
    deltas = regions.deltas[objects]
    if not config.class_agnostic_boxes:
        deltas = deltas[torch.arange(len(objects), device=labels.device), labels[objects] - 1]
    errors = F.smooth_l1_loss(deltas, regions.targets.deltas[objects], beta=config.box_beta, reduction="none").sum(
        dim=1
    )
    return class_losses, torch.zeros_like(class_losses).index_put((objects,), errors.to(class_losses.dtype))


def region_losses(regions: RegionPredictions, config: RegionConfig) -> dict[str, Tensor]:
    """The mean over each image's counted regions, then over images."""
    assert regions.targets is not None
    class_losses, box_losses = losses_by_region(regions, config)
    image_of_region = torch.repeat_interleave(
        torch.arange(len(regions.boxes_xyxy), device=class_losses.device),
        torch.tensor([len(boxes) for boxes in regions.boxes_xyxy], device=class_losses.device),
    )
    counted = (regions.targets.labels >= 0).to(class_losses.dtype)
    counts = counted.new_zeros(len(regions.boxes_xyxy)).index_add(0, image_of_region, counted).clamp_min(1)
    share = 1 / (counts[image_of_region] * len(regions.boxes_xyxy))
    return {"detection_class": (class_losses * share).sum(), "detection_box": (box_losses * share).sum()}


@torch.no_grad()
def detections_from_regions(outputs: DetectorOutputs, config: RegionConfig) -> list[DetectedTensors]:
    """Boxes of every class above the threshold, after NMS by class, best first."""
    assert outputs.regions is not None
    counts = [len(boxes) for boxes in outputs.regions.boxes_xyxy]
    probabilities = outputs.regions.logits.float().softmax(dim=1)[:, 1:].split(counts)  # [R_i, classes]
    all_deltas = outputs.regions.deltas.float().split(counts)
    detected = []
    for boxes, scores, deltas, size_hw in zip(outputs.regions.boxes_xyxy, probabilities, all_deltas, outputs.sizes_hw):
        region, label = torch.where(scores > config.score_threshold)
        chosen_deltas = deltas[region] if config.class_agnostic_boxes else deltas[region, label]
        decoded = clip_boxes(decode(chosen_deltas, boxes[region], WEIGHTS), size_hw)
        kept = batched_nms(decoded, scores[region, label], label, config.nms_iou)[: config.most]
        detected.append(DetectedTensors(decoded[kept], scores[region, label][kept], label[kept]))
    return detected
