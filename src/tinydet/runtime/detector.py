"""`tinydet.Detector`: a model file and an image to detections."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from tinydet.errors import InputError
from tinydet.records import Detections
from tinydet.runtime.decoding import ImageLike, Pixels, decode
from tinydet.runtime.description import ModelDescription
from tinydet.runtime.engines import Arrays, Engine, OnnxRuntimeEngine, OpenVinoEngine
from tinydet.runtime.model_file import ModelFile, read_model
from tinydet.runtime.resizing import enlarges, has_opencv, prepare, prepare_exactly, with_resize

EngineName = Literal["auto", "onnxruntime", "openvino"]
Resizing = Literal["fast", "exact"]


class Detector:
    """A detector from a file that `tinydet export` wrote, without PyTorch.

    Args:
        model: a path to an `.onnx` or `.tinydet` file, or its bytes.
        engine: `onnxruntime`, `openvino` (an extra), or `auto`: whichever was faster when this file was first run on
            this machine; where only one is installed, that one.
        threads: of the engine; None takes all cores.
        score_threshold: at least the one in the file, which is the default.
        classes: names of the only classes to detect.
        most: detections at most; the best are kept.
        resizing: `exact` has Pillow do it, as in training; `fast` has OpenCV or the graph itself enlarge images where
            that gives the same but for rounding (one level of 255 at most).

    Raises:
        InputError: no such file, damaged, not an exported detector; an option out of range or an unknown class.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        engine: EngineName = "auto",
        threads: int | None = None,
        score_threshold: float | None = None,
        classes: Iterable[str] | None = None,
        most: int | None = None,
        resizing: Resizing = "fast",
    ) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads {threads}: expected at least 1, or None for all cores")
        file = read_model(model)
        self.description: ModelDescription = file.description
        self.file_bytes = file.file_bytes
        self.score_threshold = _checked_threshold(score_threshold, file.description)
        self.most = _checked_most(most, file.description)
        self._labels = labels_of(classes, file.description.classes)
        self._resizing = resizing
        self._resizes_itself = False
        self._engine = self._make_engine(file, engine, threads)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that labels index."""
        return self.description.classes

    @property
    def engine(self) -> str:
        """The name of the engine in use."""
        return self._engine.name

    @overload
    def __call__(self, image: ImageLike) -> Detections: ...
    @overload
    def __call__(self, image: list[ImageLike]) -> list[Detections]: ...
    def __call__(self, image: ImageLike | list[ImageLike]) -> Detections | list[Detections]:
        """Detections in one image, or one record for each of a list of images.

        Args:
            image: a path, a file's bytes, a PIL image, or `[H, W, 3]` uint8 RGB; or a list of these.

        Returns:
            Boxes in pixels of the image as given (upright, where it has an EXIF orientation).

        Raises:
            InputError: an image cannot be read.
        """
        if isinstance(image, list):
            return [self(one) for one in image]
        pixels = decode(image)
        return self.finish(self.run(self.prepare(pixels)), pixels)

    def prepare(self, pixels: Pixels) -> Pixels:
        """The second of the four steps, after `decode`: `[H, W, 3]` RGB to the engine's input `[h, w, C]`."""
        preprocessing = self.description.preprocessing
        if self._resizing == "exact":
            return prepare_exactly(pixels, preprocessing)
        if self._resizes_itself and preprocessing.channels == "rgb" and enlarges(pixels, self._resized_hw(pixels)):
            return np.ascontiguousarray(pixels)
        return prepare(pixels, preprocessing)

    def run(self, prepared: Pixels) -> Arrays:
        """The third step: boxes in pixels of the resized image, scores and labels."""
        return self._engine(prepared)

    def finish(self, found: Arrays, pixels: Pixels) -> Detections:
        """The last step: those asked for, in pixels of the image."""
        boxes, scores, labels = found
        chosen = scores >= self.score_threshold
        if self._labels is not None:
            chosen &= np.isin(labels, self._labels)
        if not chosen.all():
            boxes, scores, labels = boxes[chosen], scores[chosen], labels[chosen]
        if len(scores) > self.most:
            boxes, scores, labels = boxes[: self.most], scores[: self.most], labels[: self.most]
        return Detections(_in_image(boxes, pixels, self._resized_hw(pixels)), scores, labels)

    def _resized_hw(self, pixels: Pixels) -> tuple[int, int]:
        return self.description.preprocessing.resized_hw((pixels.shape[0], pixels.shape[1]))

    def _make_engine(self, file: ModelFile, name: EngineName, threads: int | None) -> Engine:
        if name == "auto":
            from tinydet.runtime.choice import fastest_engine

            engine = fastest_engine(file, threads)
            if engine.name == "openvino" or has_opencv() or self._resizing == "exact":
                return engine
            name = "onnxruntime"
        if name == "openvino":
            return OpenVinoEngine(file.onnx, threads)
        if name != "onnxruntime":
            raise InputError(f"engine {name!r}: expected auto, onnxruntime or openvino")
        if self._resizing == "exact" or has_opencv():
            return OnnxRuntimeEngine(file.onnx, threads)
        self._resizes_itself = True
        return OnnxRuntimeEngine(with_resize(file.onnx), threads, file.description.preprocessing)


def _checked_threshold(wanted: float | None, description: ModelDescription) -> float:
    if wanted is None:
        return 0.0
    if not description.score_threshold <= wanted <= 1:
        raise InputError(
            f"score threshold {wanted}: expected {description.score_threshold} to 1; the file itself drops what is "
            f"below {description.score_threshold}"
        )
    return wanted


def _checked_most(wanted: int | None, description: ModelDescription) -> int:
    if wanted is not None and not 1 <= wanted <= description.most:
        raise InputError(f"at most {wanted} detections: expected 1 to {description.most}, which the file itself keeps")
    return description.most if wanted is None else wanted


def labels_of(names: Iterable[str] | None, classes: tuple[str, ...]) -> list[int] | None:
    """The labels of the named classes; None for all."""
    if names is None:
        return None
    wanted = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in wanted if name not in classes]:
        raise InputError(f"unknown class {', '.join(map(repr, unknown))}; this detector knows: {', '.join(classes)}")
    return [classes.index(name) for name in wanted]


def _in_image(boxes_xyxy: NDArray[np.float32], pixels: Pixels, resized_hw: tuple[int, int]) -> NDArray[np.float32]:
    height, width = pixels.shape[:2]
    scale = np.array([width / resized_hw[1], height / resized_hw[0]] * 2, np.float32)
    return np.minimum(boxes_xyxy * scale, np.array([width, height] * 2, np.float32))
