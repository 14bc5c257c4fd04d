"""A teacher at work: never trained, run on each image alone, its answers kept while they are asked for again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from tinydet.data.batch import Batch
from tinydet.detectors.outputs import Detector
from tinydet.distill.frozen import FrozenTeacher


@dataclass(frozen=True)
class TeacherView:
    """What a teacher sees in one image.

    Attributes:
        features: the maps before the quantizer, `[C_l, H_l, W_l]` each.
        strides: input pixels per cell of each map.
        boxes_xyxy: `[P, 4]` regions, best first.
    """

    features: tuple[Tensor, ...]
    strides: tuple[int, ...]
    boxes_xyxy: Tensor

    def byte_size(self) -> int:
        return sum(x.numel() * x.element_size() for x in (*self.features, self.boxes_xyxy))

    def to(self, device: torch.device) -> TeacherView:
        return TeacherView(tuple(x.to(device) for x in self.features), self.strides, self.boxes_xyxy.to(device))


class Teacher(FrozenTeacher):
    """A detector in evaluation mode, and a bounded memory of its answers.

    A forward pass of the teacher costs far more than one of a tiny student, and each image is met in every epoch. Views
    that are the same pixels (`Batch.view_ids`) are computed once; each image is run alone, so that its answer does not
    depend on the batch that it came in.
    """

    def __init__(self, detector: Detector, regions: int, memory_bytes: int = 2**30) -> None:
        super().__init__(detector)
        self.regions, self.memory_bytes = regions, memory_bytes
        self._kept: OrderedDict[str, TeacherView] = OrderedDict()
        self._kept_bytes = 0

    @torch.no_grad()
    def views(self, batch: Batch) -> list[TeacherView]:
        """One answer an image, on the batch's device."""
        detector = self.on(batch.images.device)
        return [self._view(detector, batch, index).to(batch.images.device) for index in range(len(batch))]

    def _view(self, detector: Detector, batch: Batch, index: int) -> TeacherView:
        key = batch.view_ids[index]
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        found = detector.regions_of_interest(batch.of_image(index), self.regions)
        view = TeacherView(tuple(x[0] for x in found.features), found.strides, found.boxes_xyxy[0])
        self._keep(key, view.to(torch.device("cpu")))
        return view

    def _keep(self, key: str, view: TeacherView) -> None:
        self._kept[key] = view
        self._kept_bytes += view.byte_size()
        while self._kept_bytes > self.memory_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.byte_size()
