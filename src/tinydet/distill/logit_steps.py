"""The training step of prediction distillation, for one-stage and two-stage students."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinydet.data.batch import Batch
from tinydet.detectors.outputs import Detector, DetectorOutputs, RegionPredictions
from tinydet.detectors.ssd import SSD
from tinydet.detectors.two_stage import TwoStageDetector
from tinydet.distill.frozen import FrozenTeacher
from tinydet.distill.logits import LogitConfig, region_distillation_losses, ssd_distillation_losses
from tinydet.errors import InputError


class LogitStep(nn.Module):
    """A student's losses by the truth and by its teacher's predictions (`LogitConfig`).

    One-stage: every default box, which must be the same for both. Two-stage: the teacher's second stage classifies the
    regions that the student has sampled.

    Raises:
        InputError: the two detectors do not predict the same classes for the same boxes.
    """

    def __init__(self, detector: Detector, teacher: Detector, config: LogitConfig) -> None:
        super().__init__()
        _check_pair(detector, teacher, config)
        self.detector = detector
        self.config = config
        self._teacher = FrozenTeacher(teacher)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.detector(batch)
        teacher = self._teacher.on(batch.images.device)
        if isinstance(self.detector, SSD):
            with torch.no_grad():
                taught = teacher(batch)
            return ssd_distillation_losses(
                outputs.dense, taught.dense, batch.targets, self.detector.config.loss, self.config
            )
        own = self.detector.criterion(outputs, batch.targets)
        assert outputs.regions is not None
        return region_distillation_losses(outputs.regions, _teachers_view(teacher, batch, outputs), own, self.config)


@torch.no_grad()
def _teachers_view(teacher: Detector, batch: Batch, outputs: DetectorOutputs) -> RegionPredictions:
    """What the teacher's second stage says of the student's regions."""
    assert isinstance(teacher, TwoStageDetector)
    assert outputs.regions is not None
    boxes = outputs.regions.boxes_xyxy
    logits, deltas = teacher.predict_regions(teacher.quantized(teacher.features(batch)), boxes)
    return RegionPredictions(boxes, logits, deltas)


def _check_pair(student: Detector, teacher: Detector, config: LogitConfig) -> None:
    if student.config.classes != teacher.config.classes:
        raise InputError(f"the teacher knows {teacher.config.classes}, the student {student.config.classes}")
    if isinstance(student, SSD) and isinstance(teacher, SSD):
        ours, theirs = student.anchors_xyxy.cpu(), teacher.anchors_xyxy.cpu()
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=0.01):
            raise InputError(f"the teacher's {len(theirs)} default boxes are not the student's {len(ours)}")
        if config.boxes is not None and student.config.box_weights != teacher.config.box_weights:
            raise InputError("the two detectors scale their offsets differently: give both the same box_weights")
    elif not (isinstance(student, TwoStageDetector) and isinstance(teacher, TwoStageDetector)):
        raise InputError(
            f"predictions are distilled between detectors of one kind, not from a {type(teacher).__name__} to a "
            f"{type(student).__name__}; features can be (MimicStep, FeatureStep)"
        )
    if student.config.preprocessing.channels != teacher.config.preprocessing.channels:
        raise InputError(
            f"the teacher takes {teacher.config.preprocessing.channels} images, the student "
            f"{student.config.preprocessing.channels}"
        )
