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
from tinydet.detectors.ssd import SSD
from tinydet.distill.mimic import MimicConfig, RegionMimic
from tinydet.distill.teacher import Teacher, TeacherView
from tinydet.errors import InputError


def region_mimic(student: Detector, teacher: Detector, config: MimicConfig) -> RegionMimic:
    """The mimic loss between two detectors, with Q where their configurations have it."""
    maps = mimicked_maps(student, teacher, config)
    return RegionMimic(
        config,
        student_channels=tuple(student.feature_channels[level] for level in maps),
        teacher_channels=tuple(teacher.feature_channels[level] for level in maps),
        student_quantizer=student.config.quantizer,
        teacher_quantizer=teacher.config.quantizer,
    )


def mimicked_maps(student: Detector, teacher: Detector, config: MimicConfig) -> tuple[int, ...]:
    """The maps of `config`, checked against both detectors.

    Raises:
        InputError: a map is not there, or is mimicked with Q though its detector does not quantize it.
    """
    count = len(student.feature_channels)
    if len(teacher.feature_channels) != count:
        raise InputError(f"the student has {count} maps, the teacher {len(teacher.feature_channels)}")
    maps = config.maps
    if maps is None:
        maps = student.config.quantized_maps if isinstance(student, SSD) else tuple(range(count))
    if not maps or not set(maps) <= set(range(count)):
        raise InputError(f"mimicked maps {maps}: the detectors have maps 0 to {count - 1}")
    for detector in (student, teacher):
        if isinstance(detector, SSD) and detector.quantizer and not set(maps) <= set(detector.config.quantized_maps):
            raise InputError(
                f"mimicked maps {maps}, but Q is on maps {detector.config.quantized_maps}: make them agree"
            )
    return maps


def batch_mimic_loss(
    mimic: RegionMimic,
    views: list[TeacherView],
    student_maps: tuple[Tensor, ...],
    student_strides: tuple[int, ...],
    boxes_xyxy: list[Tensor],
    maps: tuple[int, ...],
) -> Tensor:
    """Eq. 6: the mean over images and `maps` of each one's loss over its N regions."""
    losses = [
        mimic(
            place, view.features[level], student_maps[level][index], view.strides[level], student_strides[level], boxes
        )
        for index, (view, boxes) in enumerate(zip(views, boxes_xyxy))
        for place, level in enumerate(maps)
    ]
    return torch.stack(losses).mean()


class MimicStep(nn.Module):
    """Detection losses and the weighted mimic loss together (Eq. 4), the joint training of the paper."""

    def __init__(self, detector: Detector, teacher: Teacher, config: MimicConfig) -> None:
        super().__init__()
        self.detector = detector
        self.mimic = region_mimic(detector, teacher.detector, config)
        self.maps = mimicked_maps(detector, teacher.detector, config)
        if config.region_source == "student" and isinstance(detector, SSD):
            raise InputError("a one-stage student proposes no regions: mimic on the teacher's, or on objects")
        self.config = config
        self._teacher = (teacher,)  # in a tuple: no part of this module's weights

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.detector(batch)
        views = self._teacher[0].views(batch)
        if self.config.region_source == "teacher":
            boxes = [view.boxes_xyxy for view in views]
        elif self.config.region_source == "objects":
            boxes = [target.boxes_xyxy for target in batch.targets]
        elif outputs.proposals_xyxy is not None:
            boxes = outputs.proposals_xyxy
        else:
            raise ValueError("a one-stage student proposes no regions: mimic on the teacher's")
        loss = batch_mimic_loss(self.mimic, views, outputs.unquantized_features, outputs.strides, boxes, self.maps)
        return self.detector.criterion(outputs, batch.targets) | {"mimic": self.config.weight * loss}


class FeatureMimicStep(nn.Module):
    """The mimic loss alone: the reproduction's first stage, for the feature extractor.

    The regions are the teacher's, or the objects'. Only the student's maps are computed and learn; its detector is
    trained end to end afterwards.
    """

    def __init__(self, detector: Detector, teacher: Teacher, config: MimicConfig) -> None:
        super().__init__()
        self.detector = detector
        self.mimic = region_mimic(detector, teacher.detector, config)
        self.maps = mimicked_maps(detector, teacher.detector, config)
        if config.region_source == "student":
            raise InputError("the mimic loss alone teaches no proposals: take the teacher's regions, or the objects")
        self.config = config
        self._teacher = (teacher,)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        maps = self.detector.features(batch)
        views = self._teacher[0].views(batch)
        on_objects = self.config.region_source == "objects"
        boxes = [t.boxes_xyxy for t in batch.targets] if on_objects else [view.boxes_xyxy for view in views]
        loss = batch_mimic_loss(self.mimic, views, maps, self.detector.feature_strides, boxes, self.maps)
        return {"mimic": self.config.weight * loss}
