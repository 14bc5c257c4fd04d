"""Which layers int8 harms, measured: each one alone in int8, and what detections and AP become."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tinydet.boxes import iou
from tinydet.errors import InputError
from tinydet.evaluation import EvaluationResult, Protocol, evaluate
from tinydet.int8.layers import QuantizableModel, WeightBits, quantized
from tinydet.records import Detections, Sample
from tinydet.runtime.description import METADATA_KEY, ModelDescription
from tinydet.runtime.detector import Detector

_SAME_OBJECT_IOU = 0.5
_Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer.

    Attributes:
        change: what becomes of the float model's detections when this layer alone is int8: `detection_change`.
        kept_in_float: whether it stays float in the file.
        reason: why, in words, with the numbers.
    """

    layer: str
    weights: int
    change: float
    kept_in_float: bool
    reason: str


@dataclass(frozen=True)
class Choice:
    """Which layers stay float.

    Attributes:
        layers: the most sensitive first.
        float_accuracy, all_int8_accuracy, accuracy: on the calibration images, the last with the layers kept.
    """

    layers: tuple[LayerSensitivity, ...]
    float_accuracy: float
    all_int8_accuracy: float
    accuracy: float

    @property
    def kept_in_float(self) -> tuple[str, ...]:
        return tuple(row.layer for row in self.layers if row.kept_in_float)


class Examples:
    """Labelled images, resized once, on which models of one description are compared."""

    def __init__(self, samples: Sequence[Sample], description: ModelDescription, protocol: Protocol = "voc") -> None:
        if not samples:
            raise InputError("there is no image to measure on")
        self.samples, self.description, self.protocol = tuple(samples), description, protocol
        self.pixels: list[NDArray[np.uint8]] = [
            np.ascontiguousarray(description.preprocessing(sample.open_image())) for sample in samples
        ]

    def detect(self, model: onnx.ModelProto, count: int | None = None) -> list[Detections]:
        """What a model finds in the first `count` images."""
        detector = Detector(described(model, self.description), "onnxruntime", threads=1, resizing="exact")
        found = []
        for sample, pixels in zip(self.samples[:count], self.pixels):
            whole = np.broadcast_to(np.uint8(0), (*sample.size_hw, 3))  # only its size matters
            found.append(detector.finish(detector.run(pixels), whole))
        return found

    def evaluate(self, found: Sequence[Detections]) -> EvaluationResult:
        """The accuracy of detections in the first images."""
        samples = self.samples[: len(found)]
        by_image = {sample.image_id: detections for sample, detections in zip(samples, found)}
        return evaluate(samples, by_image, self.description.classes, self.protocol)

    def accuracy(self, model: onnx.ModelProto) -> float:
        """The protocol's one number; 0 where nothing was there to be found."""
        primary = self.evaluate(self.detect(model)).primary
        return primary if np.isfinite(primary) else 0.0


def described(model: onnx.ModelProto, description: ModelDescription) -> bytes:
    """A serialized model that says what detector it is."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    text = json.dumps(description.as_plain(), ensure_ascii=False, separators=(",", ":"))
    helper.set_model_props(copied, {METADATA_KEY: text})
    return copied.SerializeToString()


def detection_change(first: Detections, second: Detections) -> float:
    """How different two detectors' findings in one image are: 0 for equal, 1 for nothing in common.

    Detections of one label are paired by overlap, the best first. A pair with scores a and b counts max(a, b), of which
    min(a, b) IoU is in common; a detection without a partner counts its score, of which nothing is.
    """
    overlap = iou(first.boxes_xyxy.astype(np.float64), second.boxes_xyxy.astype(np.float64))
    overlap = np.where(first.labels[:, None] == second.labels[None, :], overlap, 0.0)
    rows, columns = np.nonzero(overlap >= _SAME_OBJECT_IOU)
    counted = float(first.scores.sum(dtype=np.float64) + second.scores.sum(dtype=np.float64))
    common = 0.0
    taken_rows: set[int] = set()
    taken_columns: set[int] = set()
    for place in np.argsort(-overlap[rows, columns], kind="stable"):
        row, column = int(rows[place]), int(columns[place])
        if row in taken_rows or column in taken_columns:
            continue
        taken_rows.add(row)
        taken_columns.add(column)
        lower = float(min(first.scores[row], second.scores[column]))
        common += lower * float(overlap[row, column])
        counted -= lower
    return max(0.0, 1 - common / counted) if counted > 0 else 0.0  # rounding may pass over either end


def choose_layers(
    source: QuantizableModel,
    ranges: Any,
    examples: Examples,
    largest_fall: float,
    weight_bits: WeightBits = 8,
    sensitivity_images: int = 16,
    progress: _Progress = lambda doing, done, total: None,
) -> Choice:
    """Measure every layer, and keep as few as possible float so that AP falls by `largest_fall` at most.

    With all layers in int8, AP on the examples is measured first. Where it falls too far, layers become float again, in
    the order of the change that each one makes alone, until it does not; then each of these is put back to int8 if AP
    holds without it.
    """
    names = [layer.name for layer in source.layers]
    float_found = examples.detect(source.model)
    float_accuracy = _primary(examples, float_found)
    changes = _changes(source, ranges, examples, float_found[:sensitivity_images], weight_bits, progress)
    order = sorted(names, key=lambda name: -changes[name])

    def accuracy_with(kept: Sequence[str]) -> float:
        return examples.accuracy(quantized(source, ranges, kept, weight_bits))

    all_int8 = accuracy = accuracy_with(())
    kept: list[str] = []
    gains: dict[str, tuple[float, float]] = {}
    enough = float_accuracy - largest_fall
    for name in order:
        if accuracy >= enough:
            break
        progress("keeping sensitive layers in float", len(kept), len(order))
        better = accuracy_with([*kept, name])
        gains[name] = (accuracy, better)
        kept.append(name)
        accuracy = better
    for name in [*reversed(kept[:-1])]:  # the last one was needed: without it AP had fallen too far
        without = accuracy_with([other for other in kept if other != name])
        if without >= enough:
            kept.remove(name)
            accuracy = without
    rows = []
    for layer in sorted(source.layers, key=lambda layer: -changes[layer.name]):
        reason = _reason(layer.name, changes[layer.name], gains if layer.name in kept else {})
        rows.append(LayerSensitivity(layer.name, layer.weights, changes[layer.name], layer.name in kept, reason))
    return Choice(tuple(rows), float_accuracy, all_int8, accuracy)


def _changes(
    source: QuantizableModel,
    ranges: Any,
    examples: Examples,
    float_found: Sequence[Detections],
    weight_bits: WeightBits,
    progress: _Progress,
) -> Mapping[str, float]:
    names = [layer.name for layer in source.layers]
    changes = {}
    for place, name in enumerate(names):
        progress("measuring each layer in int8 alone", place, len(names))
        alone = quantized(source, ranges, [other for other in names if other != name], weight_bits)
        found = examples.detect(alone, len(float_found))
        changes[name] = float(np.mean([detection_change(one, two) for one, two in zip(float_found, found)]))
    return changes


def _reason(name: str, change: float, gains: Mapping[str, tuple[float, float]]) -> str:
    if name not in gains:
        return ""
    before, after = gains[name]
    return (
        f"alone in int8 it changes detections by {change:.3f}; kept in float, AP on the calibration images went from "
        f"{before:.4f} to {after:.4f}"
    )


def _primary(examples: Examples, found: Sequence[Detections]) -> float:
    primary = examples.evaluate(found).primary
    return primary if np.isfinite(primary) else 0.0
