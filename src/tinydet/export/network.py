"""A whole detector as one ONNX model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from torch import nn

import tinydet
from tinydet.complexity import measure_complexity
from tinydet.config import to_plain
from tinydet.detectors.ssd import SSD
from tinydet.detectors.two_stage import TwoStageDetector
from tinydet.export.graph import FLOAT, INT64, OPSET, UINT8, GraphBuilder, value
from tinydet.export.one_stage import add_ssd
from tinydet.export.two_stage import add_two_stage
from tinydet.runtime.description import METADATA_KEY, ModelDescription

_STATED_HW = (600, 1000)
"""Multiply-adds are stated for an image of this shape, as in Wei et al. 2018, Table 3."""


def build_onnx(detector: nn.Module, description: ModelDescription) -> onnx.ModelProto:
    """The checked model, from resized 8-bit pixels to final boxes."""
    graph = GraphBuilder()
    image = graph.name("image")
    match detector:
        case TwoStageDetector():
            add_two_stage(graph, image, detector)
        case SSD():
            add_ssd(graph, image, detector)
        case _:
            raise TypeError(f"cannot export a {type(detector).__name__}")
    height, width = description.preprocessing.fixed_size_hw or ("height", "width")
    metadata = {METADATA_KEY: json.dumps(description.as_plain(), ensure_ascii=False, separators=(",", ":"))}
    return graph.model(
        [value("image", UINT8, [1, height, width, description.preprocessing.channel_count])],
        [
            value("boxes", FLOAT, ["detections", 4]),
            value("scores", FLOAT, ["detections"]),
            value("labels", INT64, ["detections"]),
        ],
        metadata,
    )


def describe(
    detector: Any, metrics: Mapping[str, Any], run: Mapping[str, Any], compression: Sequence[Any]
) -> ModelDescription:
    """What the file will say of the detector."""
    config = detector.config
    regions = None if isinstance(detector, SSD) else config.proposals.test_proposals
    input_hw = config.preprocessing.resized_hw(_STATED_HW)
    chosen = config if isinstance(detector, SSD) else config.regions
    return ModelDescription(
        detector=type(detector).__name__,
        classes=tuple(config.classes),
        preprocessing=config.preprocessing,
        score_threshold=chosen.score_threshold,
        nms_iou=chosen.nms_iou,
        most=chosen.most,
        parameters=sum(parameter.numel() for parameter in detector.parameters()),
        opset=OPSET,
        multiply_adds=_multiply_adds(detector, input_hw, regions),
        input_hw=input_hw,
        regions=regions,
        config=to_plain(config),
        metrics=to_plain(dict(metrics)),
        run=to_plain(dict(run)),
        compression=to_plain(list(compression)),
        tinydet=tinydet.__version__,
    )


def _multiply_adds(detector: Any, input_hw: tuple[int, int], regions: int | None) -> int:
    try:
        return measure_complexity(detector, input_hw, regions or 0).multiply_adds
    except ValueError:  # so small an input that there are no regions to count
        return 0
