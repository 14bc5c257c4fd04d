"""What flows between the parts: annotations, samples, data sets and detections.

Boxes are `[N, 4]` float32 in pixels of the original image, `x_min, y_min, x_max, y_max`, with the origin at the top
left corner of the top left pixel, so that a box's width is `x_max - x_min`. Labels are indices into `classes`, from 0;
background has no index here. Every record is checked when it is made and never changed afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageOps

from tinydet.errors import InputError

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

FLOATING_POINT = "its pixels are floating-point numbers, whose range nobody states; save it with 8 or 16 bits"


def _frozen(value: ArrayLike, dtype: Any, shape: tuple[int | None, ...], name: str) -> NDArray[Any]:
    array = np.array(value, dtype=dtype)
    if array.size == 0:
        array = array.reshape([0 if size is None else size for size in shape])
    if array.ndim != len(shape) or any(want is not None and got != want for got, want in zip(array.shape, shape)):
        expected = ", ".join("N" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {list(array.shape)}, expected [{expected}]")
    array.setflags(write=False)
    return array


def _check_boxes(boxes_xyxy: FloatArray, what: str) -> None:
    if not np.isfinite(boxes_xyxy).all():
        raise ValueError(f"{what} has a box that is not finite")
    wrong = np.flatnonzero((boxes_xyxy[:, 2:] < boxes_xyxy[:, :2]).any(axis=1))
    if len(wrong):
        raise ValueError(f"{what} box {wrong[0]} has its corners swapped: {boxes_xyxy[wrong[0]].tolist()}")


def _check_lengths(count: int, **arrays: NDArray[Any]) -> None:
    for name, array in arrays.items():
        if len(array) != count:
            raise ValueError(f"{name} has {len(array)} entries for {count} boxes")


@dataclass(frozen=True, eq=False)
class Annotations:
    """The labelled objects of one image.

    Attributes:
        boxes_xyxy: `[N, 4]` float32, pixels.
        labels: `[N]` int64, indices into the data set's classes.
        difficult: `[N]` bool; not trained on, and neither rewarded nor punished by evaluation (VOC's `difficult`,
            WIDER FACE's `invalid`).
        crowd: `[N]` bool; COCO's `iscrowd` regions.
    """

    boxes_xyxy: FloatArray
    labels: IntArray
    difficult: BoolArray = field(default=None)  # type: ignore[assignment, arg-type]
    crowd: BoolArray = field(default=None)  # type: ignore[assignment, arg-type]

    def __post_init__(self) -> None:
        boxes = _frozen(self.boxes_xyxy, np.float32, (None, 4), "boxes_xyxy")
        _check_boxes(boxes, "annotation")
        none = np.zeros(len(boxes), bool)
        object.__setattr__(self, "boxes_xyxy", boxes)
        object.__setattr__(self, "labels", _frozen(self.labels, np.int64, (None,), "labels"))
        for name in ("difficult", "crowd"):
            value = getattr(self, name)
            object.__setattr__(self, name, _frozen(none if value is None else value, bool, (None,), name))
        _check_lengths(len(boxes), labels=self.labels, difficult=self.difficult, crowd=self.crowd)
        if (self.labels < 0).any():
            raise ValueError("labels are indices from 0")

    @classmethod
    def empty(cls) -> Annotations:
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def __getitem__(self, index: Any) -> Annotations:
        """Those chosen by a mask, a slice or an array of indices."""
        return Annotations(self.boxes_xyxy[index], self.labels[index], self.difficult[index], self.crowd[index])


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector found in one image, highest score first.

    Attributes:
        boxes_xyxy: `[N, 4]` float32, pixels of the original image.
        scores: `[N]` float32 in 0..1.
        labels: `[N]` int64, indices into the detector's classes.
    """

    boxes_xyxy: FloatArray
    scores: FloatArray
    labels: IntArray

    def __post_init__(self) -> None:
        boxes = _frozen(self.boxes_xyxy, np.float32, (None, 4), "boxes_xyxy")
        scores = _frozen(self.scores, np.float32, (None,), "scores")
        labels = _frozen(self.labels, np.int64, (None,), "labels")
        _check_boxes(boxes, "detection")
        _check_lengths(len(boxes), scores=scores, labels=labels)
        if not ((scores >= 0) & (scores <= 1)).all():  # also false for NaN
            raise ValueError("scores must lie in 0..1")
        if (labels < 0).any():
            raise ValueError("labels are indices from 0")
        if (np.diff(scores) > 0).any():
            order = np.argsort(-scores, kind="stable")
            boxes, scores, labels = boxes[order], scores[order], labels[order]
            for array in (boxes, scores, labels):
                array.setflags(write=False)
        object.__setattr__(self, "boxes_xyxy", boxes)
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "labels", labels)

    @classmethod
    def empty(cls) -> Detections:
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def __getitem__(self, index: Any) -> Detections:
        """Those chosen by a mask, a slice or an array of indices."""
        return Detections(self.boxes_xyxy[index], self.scores[index], self.labels[index])

    def above(self, score_threshold: float) -> Detections:
        return self[self.scores >= score_threshold]

    def of_labels(self, labels: Iterable[int]) -> Detections:
        return self[np.isin(self.labels, list(labels))]

    def as_dicts(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """One plain dictionary a detection, ready for JSON."""
        return [
            {"label": classes[label], "score": round(float(score), 6), "box_xyxy": [round(float(v), 2) for v in box]}
            for box, score, label in zip(self.boxes_xyxy, self.scores, self.labels)
        ]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a data set, and what is known to be in it.

    Attributes:
        image_id: unique within its data set; VOC's file stem, COCO's `id` as text, the relative path elsewhere.
        image: a file, or the pixels themselves, `[H, W, 3]` uint8 RGB.
        size_hw: height and width in pixels.
    """

    image_id: str
    image: Path | NDArray[np.uint8]
    size_hw: tuple[int, int]
    annotations: Annotations

    def __post_init__(self) -> None:
        if min(self.size_hw) < 1:
            raise ValueError(f"sample {self.image_id!r} has size {self.size_hw}")
        if isinstance(self.image, np.ndarray) and self.image.shape != (*self.size_hw, 3):
            raise ValueError(f"sample {self.image_id!r}: pixels {self.image.shape}, size {self.size_hw}")

    def open_image(self) -> Image.Image:
        """The image in RGB, upright (its EXIF orientation applied).

        Raises:
            InputError: the file is missing, truncated or not an image.
        """
        if isinstance(self.image, np.ndarray):
            return Image.fromarray(self.image)
        return open_image(self.image)


def open_image(path: Path) -> Image.Image:
    """An image file in RGB, upright.

    Raises:
        InputError: the file is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as opened:
            return upright_rgb(opened)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such image") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image: {error}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """Any image in RGB of 8 bits, its EXIF orientation applied.

    Raises:
        ValueError: its pixels are floating-point numbers.
    """
    image.load()
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image  # which would copy: as long as decoding a small JPEG
    if upright.mode.startswith("I"):  # 16 bits, which Pillow would clip to white
        upright = Image.fromarray((np.clip(np.asarray(upright), 0, 0xFFFF) >> 8).astype(np.uint8))
    elif upright.mode == "F":
        raise ValueError(FLOATING_POINT)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


@dataclass(frozen=True)
class Fault:
    """Something wrong in a data set, found while reading or checking it.

    Attributes:
        kind: a short fixed name, such as `unreadable-image`, `box-outside-image`, `unknown-class`.
        path: the file to open in order to mend it.
        line: the line in that file, from 1, where there is one.
    """

    kind: str
    path: Path
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = str(self.path) if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.kind}: {self.message}"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples by split, and the faults that were met while reading them.

    Attributes:
        classes: the names that labels index.
        splits: `train`, `val`, `test`, `trainval`, ...; a set without split files has the one split `all`.
        faults: samples and boxes with a fault are left out of `splits`; `data check` lists them.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, tuple[Sample, ...]]
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"{self.name}: a class is named twice: {self.classes}")
        for split, samples in self.splits.items():
            for sample in samples:
                if len(sample.annotations) and sample.annotations.labels.max() >= len(self.classes):
                    raise ValueError(f"{self.name}/{split}/{sample.image_id}: label beyond {len(self.classes)} classes")

    def split(self, name: str) -> tuple[Sample, ...]:
        """The samples of a split.

        Raises:
            InputError: there is no such split; the message lists those there are.
        """
        if name not in self.splits:
            raise InputError(f"{self.name} has no split {name!r}; it has: {', '.join(sorted(self.splits))}")
        return self.splits[name]
