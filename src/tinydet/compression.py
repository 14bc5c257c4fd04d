"""What compression has done to a detector: its size before and after, and the list that a checkpoint carries on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tinydet.complexity import measure_complexity
from tinydet.config import to_plain
from tinydet.packed import PackedFile, pack

_STATED_HW = (600, 1000)
"""Multiply-adds are counted for an image of this shape, resized as the detector would."""


@dataclass(frozen=True)
class DetectorSize:
    """Attributes:
    nonzero_weights: of `parameters`, those that are not zero.
    multiply_adds: of one image of `input_hw`; those with zeros count too.
    packed_bytes: of a packed file of all tensors, without a graph.
    """

    parameters: int
    nonzero_weights: int
    multiply_adds: int
    input_hw: tuple[int, int]
    packed_bytes: int


def measure_size(detector: Any) -> DetectorSize:
    """Measure a detector, which stays as it is."""
    preprocessing = detector.config.preprocessing
    input_hw = preprocessing.fixed_size_hw or preprocessing.resized_hw(_STATED_HW)
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in detector.state_dict().items()}
    return DetectorSize(
        sum(parameter.numel() for parameter in detector.parameters()),
        sum(int(parameter.count_nonzero()) for parameter in detector.parameters()),
        measure_complexity(detector, input_hw).multiply_adds,
        input_hw,
        len(pack(PackedFile(tensors=tensors))),
    )


def compressed_run(
    run: Mapping[str, Any], step: str, config: Any, metrics: Mapping[str, Any], **figures: Any
) -> dict[str, Any]:
    """A checkpoint's `run` after one more step of compression: its `compression` lists all of them in their order.

    Args:
        run: of the checkpoint that was compressed.
        metrics: of that checkpoint, kept as `metrics_before`.
        figures: what else is worth keeping.
    """
    entry = {"step": step, "config": to_plain(config), "metrics_before": dict(metrics), **figures}
    kept = {name: value for name, value in run.items() if name != "training"}
    return {**kept, "compression": [*run.get("compression", []), to_plain(entry)]}
