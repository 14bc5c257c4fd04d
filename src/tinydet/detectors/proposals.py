"""The region proposal network (Ren et al. 2015, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, nms

from tinydet.data.batch import Target
from tinydet.detectors.anchors import FASTER_RCNN_ANCHORS, AnchorConfig, anchors_of_map, cell_anchors
from tinydet.detectors.box_coding import Weights, clip_boxes, decode, encode
from tinydet.detectors.matching import BACKGROUND, MatchConfig, match, sample
from tinydet.detectors.outputs import DensePredictions

WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class ProposalConfig:
    """Where objects may be.

    Attributes:
        train_candidates, test_candidates: best-scored boxes of each map that enter NMS.
        train_proposals, test_proposals: boxes kept after it.
        batch, positive_fraction: anchors sampled for the loss in each image.
        smallest_side: boxes with a smaller side, in input pixels, are dropped.
    """

    anchors: AnchorConfig = FASTER_RCNN_ANCHORS
    train_candidates: int = 2000
    train_proposals: int = 2000
    test_candidates: int = 6000
    test_proposals: int = 300
    nms_iou: float = 0.7
    smallest_side: float = 1.0
    match: MatchConfig = field(default_factory=lambda: MatchConfig(0.7, 0.3, best_counts=True))
    batch: int = 256
    positive_fraction: float = 0.5


class ProposalNetwork(nn.Module):
    def __init__(self, config: ProposalConfig, channels: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        if len(config.anchors.sides) != len(strides):
            raise ValueError(f"{len(config.anchors.sides)} tuples of anchor sides for {len(strides)} maps")
        self.config, self.strides = config, strides
        self.head = RPNHead(channels, config.anchors.per_cell)
        for level, sides in enumerate(config.anchors.sides):
            self.register_buffer(
                f"cells_{level}", cell_anchors(sides, config.anchors.ratios, config.anchors.rounded), persistent=False
            )

    def forward(self, features: tuple[Tensor, ...]) -> tuple[DensePredictions, list[int]]:
        """Predictions at every anchor of `[B, C, H_l, W_l]` maps, and the number of anchors of each map."""
        logits, deltas = self.head(list(features))
        anchors = [
            anchors_of_map(self.get_buffer(f"cells_{level}"), (feature.shape[-2], feature.shape[-1]), stride)
            for level, (feature, stride) in enumerate(zip(features, self.strides))
        ]
        dense = DensePredictions(
            logits=torch.cat([by_anchor(x, 1) for x in logits], dim=1),
            deltas=torch.cat([by_anchor(x, 4) for x in deltas], dim=1),
            anchors_xyxy=torch.cat(anchors),
            weights=WEIGHTS,
        )
        return dense, [len(level) for level in anchors]

    @torch.no_grad()
    def propose(
        self,
        dense: DensePredictions,
        level_sizes: list[int],
        sizes_hw: tuple[tuple[int, int], ...],
        count: int | None = None,
    ) -> list[Tensor]:
        """The boxes most likely to hold an object: one `[P, 4]` an image, best first, P at most `count`."""
        config = self.config
        candidates = config.train_candidates if self.training else config.test_candidates
        keep = count or (config.train_proposals if self.training else config.test_proposals)
        level_of_anchor = torch.repeat_interleave(
            torch.arange(len(level_sizes), device=dense.logits.device),
            torch.tensor(level_sizes, device=dense.logits.device),
        )
        proposals = []
        for logits, deltas, size_hw in zip(dense.logits.detach().float(), dense.deltas.detach().float(), sizes_hw):
            chosen = _best_of_each_level(logits[:, 0], level_sizes, candidates)
            boxes = clip_boxes(decode(deltas[chosen], dense.anchors_xyxy[chosen], dense.weights), size_hw)
            large = ((boxes[:, 2:] - boxes[:, :2]) >= config.smallest_side).all(dim=1)
            boxes, scores, levels = boxes[large], logits[chosen, 0][large], level_of_anchor[chosen][large]
            one_level = len(level_sizes) == 1
            kept = (
                nms(boxes, scores, config.nms_iou) if one_level else batched_nms(boxes, scores, levels, config.nms_iou)
            )
            proposals.append(boxes[kept[:keep]])
        return proposals


def by_anchor(x: Tensor, entries: int) -> Tensor:
    """`[B, anchors * entries, H, W]` to `[B, H * W * anchors, entries]`."""
    batch, _, height, width = x.shape
    return x.reshape(batch, -1, entries, height, width).permute(0, 3, 4, 1, 2).reshape(batch, -1, entries)


def _best_of_each_level(scores: Tensor, level_sizes: list[int], count: int) -> Tensor:
    chosen, start = [], 0
    for size in level_sizes:
        chosen.append(scores[start : start + size].topk(min(count, size)).indices + start)
        start += size
    return torch.cat(chosen)


def proposal_losses(dense: DensePredictions, targets: tuple[Target, ...], config: ProposalConfig) -> dict[str, Tensor]:
    """Binary cross-entropy and smooth L1 over the sampled anchors (Ren et al. 2015, Eq. 1).

    The mean over each image's anchors, then over images: it does not matter how images are spread over processes.
    """
    class_losses, box_losses = [], []
    for logits, deltas, target in zip(dense.logits, dense.deltas, targets):
        matches = match(dense.anchors_xyxy, target, config.match)
        positives, negatives = sample(matches, config.batch, config.positive_fraction)
        chosen = torch.cat([positives, negatives])
        counted = max(len(chosen), 1)
        wanted = (matches[chosen] != BACKGROUND).to(logits.dtype)
        class_loss = F.binary_cross_entropy_with_logits(logits[chosen, 0], wanted, reduction="sum")
        wanted_deltas = encode(target.boxes_xyxy[matches[positives]], dense.anchors_xyxy[positives], dense.weights)
        box_loss = F.smooth_l1_loss(deltas[positives], wanted_deltas, beta=1 / 9, reduction="sum")
        class_losses.append(class_loss / counted)
        box_losses.append(box_loss / counted)
    return {"proposal_class": torch.stack(class_losses).mean(), "proposal_box": torch.stack(box_losses).mean()}
