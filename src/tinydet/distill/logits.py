"""Distilling predictions: class scores (Ko and Yoo, Eq. 1; Hinton et al. 2015) and boxes (Chen et al. 2017, Eq. 4).

    loss = alpha * CE(student, truth) + beta * KL(teacher / T, student / T),    alpha + beta = 1

KL(teacher / T, student / T) is the divergence of the student's softmax(z_s / T) from the teacher's softmax(z_t / T).
Dividing by T makes its gradient smaller by about T^2; Hinton et al. multiply by T^2 so that the balance of the two
terms does not move with T, while Ko and Yoo's equation has no such factor: without it, a higher T is also a lower beta.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from tinydet.data.batch import Target
from tinydet.detectors.outputs import DensePredictions, RegionPredictions
from tinydet.detectors.ssd_loss import SSDLossConfig, class_losses_by_box, counted_boxes, dense_targets


@dataclass(frozen=True)
class BoxDistillConfig:
    """How a student learns boxes from a teacher.

    Attributes:
        kind: `bounded`: the student's squared distance from the truth, as long as it is not better than the teacher's
            by the margin (Chen et al. 2017, Eq. 4). `imitated`: smooth L1 to the teacher's offsets, where the teacher
            is better by the margin.
        truth_weight: of the detector's own box loss; 1 in Chen et al., alpha in the manner of Ko and Yoo.
        weight: of the distilled one; nu in Chen et al.
        margin: m, in squared offsets.
    """

    kind: Literal["bounded", "imitated"] = "bounded"
    truth_weight: float = 1.0
    weight: float = 0.5
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.truth_weight < 0 or self.weight < 0 or self.margin < 0:
            raise ValueError(f"weights and margin of box distillation cannot be negative: {self}")


@dataclass(frozen=True)
class LogitConfig:
    """How a student learns class scores from a teacher.

    Attributes:
        alpha: weight of the truth; the teacher's is 1 - alpha.
        temperature: T.
        t_squared: multiply the divergence by T^2, as Hinton et al. do and Ko and Yoo's equation does not.
        over: `counted`: the boxes that the truth is learned from (objects and mined background; sampled regions);
            `all`: every default box or region. Either way the sum is divided by what the truth's is.
        boxes: distil boxes too, or None.
    """

    alpha: float = 0.5
    temperature: float = 2.0
    t_squared: bool = False
    over: Literal["counted", "all"] = "counted"
    boxes: BoxDistillConfig | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or self.temperature <= 0:
            raise ValueError(f"alpha {self.alpha} is not in 0..1, or temperature {self.temperature} is not positive")

    @property
    def beta(self) -> float:
        return 1 - self.alpha


def softened_divergence(teacher_logits: Tensor, student_logits: Tensor, config: LogitConfig) -> Tensor:
    """`[...]` KL divergence for each `[..., K]` row of logits; the teacher has no gradient."""
    teacher = (teacher_logits.detach() / config.temperature).log_softmax(dim=-1)
    student = (student_logits / config.temperature).log_softmax(dim=-1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return divergence * config.temperature**2 if config.t_squared else divergence


def distilled_box_errors(teacher: Tensor, student: Tensor, truth: Tensor, config: BoxDistillConfig) -> Tensor:
    """`[N]` errors of `[N, 4]` offsets of objects, without the weight."""
    teacher = teacher.detach()
    of_teacher = (teacher - truth).square().sum(dim=1)
    of_student = (student - truth).square().sum(dim=1)
    match config.kind:
        case "bounded":
            return of_student * (of_student.detach() + config.margin > of_teacher)
        case "imitated":
            to_teacher = F.smooth_l1_loss(student, teacher, reduction="none").sum(dim=1)
            return to_teacher * (of_teacher + config.margin < of_student.detach())


def ssd_distillation_losses(
    student: DensePredictions,
    teacher: DensePredictions,
    targets: tuple[Target, ...],
    loss: SSDLossConfig,
    config: LogitConfig,
) -> dict[str, Tensor]:
    """The weighted losses of a one-stage student; each is over N, the batch's object boxes, as SSD's own losses are."""
    wanted = dense_targets(student.anchors_xyxy, student.weights, targets, loss)
    by_box = class_losses_by_box(student.logits, wanted.labels)
    counted = counted_boxes(by_box, wanted.labels, loss)
    taught = torch.ones_like(counted) if config.over == "all" else counted
    divergence = softened_divergence(teacher.logits[taught].float(), student.logits[taught].float(), config)
    objects, box_weight = wanted.objects, 1.0 if config.boxes is None else config.boxes.truth_weight
    deltas, truth = student.deltas[objects].float(), wanted.deltas[objects]
    own_errors = F.smooth_l1_loss(deltas, truth, beta=loss.box_beta, reduction="sum")
    losses = {
        "detection_class": config.alpha * by_box[counted].sum() / wanted.count,
        "detection_box": box_weight * loss.box_weight * own_errors / wanted.count,
        "distill_class": config.beta * divergence.sum() / wanted.count,
    }
    if config.boxes is not None:
        errors = distilled_box_errors(teacher.deltas[objects].float(), deltas, truth, config.boxes)
        losses["distill_box"] = config.boxes.weight * errors.sum() / wanted.count
    return losses


def region_distillation_losses(
    student: RegionPredictions, teacher: RegionPredictions, own: dict[str, Tensor], config: LogitConfig
) -> dict[str, Tensor]:
    """The weighted losses of a two-stage student, both detectors having classified the same regions.

    Args:
        own: the student's losses by the truth; those of its proposals stay as they are.

    The distilled losses are means over the regions, as the second stage's own are.
    """
    assert student.targets is not None
    labels, counted = student.targets.labels, student.targets.labels >= 0
    taught = torch.ones_like(counted) if config.over == "all" else counted
    number = counted.sum().clamp_min(1)
    divergence = softened_divergence(teacher.logits[taught].float(), student.logits[taught].float(), config)
    losses = own | {
        "detection_class": config.alpha * own["detection_class"],
        "distill_class": config.beta * divergence.sum() / number,
    }
    if config.boxes is not None:
        objects = torch.where(labels > 0)[0]
        errors = distilled_box_errors(
            _deltas_of_labels(teacher.deltas, labels, objects),
            _deltas_of_labels(student.deltas, labels, objects),
            student.targets.deltas[objects],
            config.boxes,
        )
        losses["detection_box"] = config.boxes.truth_weight * own["detection_box"]
        losses["distill_box"] = config.boxes.weight * errors.sum() / number
    return losses


def _deltas_of_labels(deltas: Tensor, labels: Tensor, objects: Tensor) -> Tensor:
    """`[N, 4]` offsets of the objects, of each one's own class where boxes are not class-agnostic."""
    chosen = deltas[objects].float()
    return chosen if chosen.ndim == 2 else chosen[torch.arange(len(objects), device=labels.device), labels[objects] - 1]
