"""From the numbers in a label file to checked annotations: boxes fitted to the image, labels in the classes' order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinydet.datasets.faults import (
    BOX_OUTSIDE_IMAGE,
    BOX_WITHOUT_AREA,
    MALFORMED_OBJECT,
    ROTATED_IMAGE,
    SIZE_DIFFERS,
    FaultLog,
    reject,
)
from tinydet.datasets.images import ImageHeader
from tinydet.records import Annotations

Box = tuple[float, float, float, float]

# Labelling tools count pixels from 0 or from 1; a box that leaves the image by one pixel is theirs, not a mistake.
TOLERATED_PX = 1.0


def fit_box(box_xyxy: Sequence[float], size_hw: tuple[int, int]) -> tuple[Box | None, str | None, str]:
    """A box cut to its image.

    Returns:
        The box, or None where nothing of it is left; the kind of fault, or None; what is wrong, in words.
    """
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    shown = f"box [{x1:g}, {y1:g}, {x2:g}, {y2:g}]"
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return None, MALFORMED_OBJECT, f"{shown} is not finite; left out"
    if x2 <= x1 or y2 <= y1:
        return None, BOX_WITHOUT_AREA, f"{shown} (x_min, y_min, x_max, y_max) has no area; left out"
    height, width = size_hw
    left, top, right, bottom = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if right <= left or bottom <= top:
        return None, BOX_OUTSIDE_IMAGE, f"{shown} lies outside the image of {width} x {height} pixels; left out"
    beyond = max(left - x1, top - y1, x2 - right, y2 - bottom)
    if beyond > TOLERATED_PX + 1e-3:
        message = f"{shown} leaves the image of {width} x {height} pixels by {beyond:g}; cut to the image"
        return (left, top, right, bottom), BOX_OUTSIDE_IMAGE, message
    return (left, top, right, bottom), None, ""


class ObjectList:
    """The objects of one image, checked one by one; faulty ones are noted and left out."""

    def __init__(self, size_hw: tuple[int, int], log: FaultLog) -> None:
        self._size_hw = size_hw
        self._log = log
        self._boxes: list[Box] = []
        self._labels: list[int] = []
        self._difficult: list[bool] = []
        self._crowd: list[bool] = []

    def add(
        self,
        box_xyxy: Sequence[float],
        label: int,
        path: Path,
        line: int | None = None,
        *,
        difficult: bool = False,
        crowd: bool = False,
        note: str = "",
    ) -> None:
        """Add one object.

        Args:
            path, line: where it is written, for its faults.
            note: words before a fault's message, such as the annotation's id.
        """
        box, kind, message = fit_box(box_xyxy, self._size_hw)
        if kind is not None:
            self._log.add(kind, path, note + message, line)
        if box is None:
            return
        self._boxes.append(box)
        self._labels.append(label)
        self._difficult.append(difficult)
        self._crowd.append(crowd)

    def annotations(self) -> Annotations:
        if not self._boxes:
            return Annotations.empty()
        return Annotations(
            np.array(self._boxes, np.float32),
            np.array(self._labels, np.int64),
            np.array(self._difficult, bool),
            np.array(self._crowd, bool),
        )


def check_stated_size(
    stated_hw: tuple[int, int],
    header: ImageHeader,
    path: Path,
    log: FaultLog,
    line: int | None = None,
    note: str = "",
) -> None:
    """Note where an annotation file states another size than the image has; the image is believed.

    Raises:
        Faulty: the boxes were drawn on the image as stored, but EXIF turns it, so that they fit no longer.
    """
    if header.turned and header.stored_hw != header.size_hw and stated_hw == header.stored_hw:
        reject(
            ROTATED_IMAGE,
            path,
            f"{note}the size {stated_hw[1]} x {stated_hw[0]} is that before the image's EXIF orientation turns it; "
            "left out: turn the pixels themselves and remove the EXIF orientation",
            line,
        )
    if stated_hw != header.size_hw:
        stated, found = (f"{width} x {height}" for height, width in (stated_hw, header.size_hw))
        log.add(SIZE_DIFFERS, path, f"{note}states {stated} pixels, the image has {found}", line)
