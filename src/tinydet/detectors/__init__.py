"""Detectors: a network, its criterion, and its postprocessing."""

from __future__ import annotations

from torch import nn

from tinydet.detectors.faster_rcnn import FasterRCNN, FasterRCNNConfig
from tinydet.detectors.faster_rcnn_fpn import FasterRCNNFPN, FasterRCNNFPNConfig
from tinydet.detectors.rfcn import RFCN, RFCNConfig
from tinydet.detectors.ssd import SSD, SSDConfig

DetectorConfig = FasterRCNNConfig | FasterRCNNFPNConfig | RFCNConfig | SSDConfig

__all__ = [
    "RFCN",
    "SSD",
    "DetectorConfig",
    "FasterRCNN",
    "FasterRCNNConfig",
    "FasterRCNNFPN",
    "FasterRCNNFPNConfig",
    "RFCNConfig",
    "SSDConfig",
    "build_detector",
]


def build_detector(config: DetectorConfig) -> nn.Module:
    """The detector that a configuration describes, with fresh weights."""
    match config:
        case FasterRCNNConfig():
            return FasterRCNN(config)
        case FasterRCNNFPNConfig():
            return FasterRCNNFPN(config)
        case RFCNConfig():
            return RFCN(config)
        case SSDConfig():
            return SSD(config)
