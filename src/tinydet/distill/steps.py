"""Training steps of the mimic family. The two switches are the quantizers in the two detectors' configurations:

| teacher's Q | student's Q | method |
| --- | --- | --- |
| no | no | Li et al. 2017, mimic only |
| yes | no | teacher quantized |
| yes | yes | Quantization Mimic |

A student with its own Q and no teacher is "student quantized only": a plain `DetectionStep`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tinydet.data.batch import Batch
from tinydet.detectors.outputs import Detector
from tinydet.distill.mimic import MimicConfig, RegionMimic
from tinydet.distill.teacher import Teacher, TeacherView


def region_mimic(student: Detector, teacher: Detector, config: MimicConfig) -> RegionMimic:
    """The mimic loss between two detectors, with Q where their configurations have it."""
    return RegionMimic(
        config,
        student_channels=student.feature_channels,
        teacher_channels=teacher.feature_channels,
        student_quantizer=student.config.quantizer,
        teacher_quantizer=teacher.config.quantizer,
    )


def batch_mimic_loss(
    mimic: RegionMimic,
    views: list[TeacherView],
    student_maps: tuple[Tensor, ...],
    student_strides: tuple[int, ...],
    boxes_xyxy: list[Tensor],
) -> Tensor:
    """Eq. 6: the mean over images and maps of each one's loss over its N regions."""
    losses = [
        mimic(level, view.features[level], student_map[index], view.strides[level], stride, boxes)
        for index, (view, boxes) in enumerate(zip(views, boxes_xyxy))
        for level, (student_map, stride) in enumerate(zip(student_maps, student_strides))
    ]
    return torch.stack(losses).mean()


class MimicStep(nn.Module):
    """Detection losses and the weighted mimic loss together (Eq. 4), the joint training of the paper."""

    def __init__(self, detector: Detector, teacher: Teacher, config: MimicConfig) -> None:
        super().__init__()
        self.detector = detector
        self.mimic = region_mimic(detector, teacher.detector, config)
        self.config = config
        self._teacher = (teacher,)  # in a tuple: no part of this module's weights

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.detector(batch)
        views = self._teacher[0].views(batch)
        if self.config.region_source == "teacher":
            boxes = [view.boxes_xyxy for view in views]
        elif outputs.proposals_xyxy is not None:
            boxes = outputs.proposals_xyxy
        else:
            raise ValueError("a one-stage student proposes no regions: mimic on the teacher's")
        loss = batch_mimic_loss(self.mimic, views, outputs.unquantized_features, outputs.strides, boxes)
        return self.detector.criterion(outputs, batch.targets) | {"mimic": self.config.weight * loss}


class FeatureMimicStep(nn.Module):
    """The mimic loss alone, on the teacher's regions: the reproduction's first stage, for the feature extractor.

    Only the student's backbone runs and learns; its detector is trained end to end afterwards.
    """

    def __init__(self, detector: Detector, teacher: Teacher, config: MimicConfig) -> None:
        super().__init__()
        self.detector = detector
        self.mimic = region_mimic(detector, teacher.detector, config)
        self.config = config
        self._teacher = (teacher,)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        maps = self.detector.features(batch)
        views = self._teacher[0].views(batch)
        boxes = [view.boxes_xyxy for view in views]
        loss = batch_mimic_loss(self.mimic, views, maps, self.detector.feature_strides, boxes)
        return {"mimic": self.config.weight * loss}
