"""Detectors: a network, its criterion, and its postprocessing."""

from __future__ import annotations

from torch import nn

from tinydet.detectors.faster_rcnn import FasterRCNN, FasterRCNNConfig

DetectorConfig = FasterRCNNConfig

__all__ = ["DetectorConfig", "FasterRCNN", "FasterRCNNConfig", "build_detector"]


def build_detector(config: DetectorConfig) -> nn.Module:
    """The detector that a configuration describes, with fresh weights."""
    match config:
        case FasterRCNNConfig():
            return FasterRCNN(config)
