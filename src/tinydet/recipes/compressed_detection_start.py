"""The dense detector of Compressed Objects Detection (section 3.2), before it is trained: its configuration, and the
weights it starts from.

The paper starts from Detectron2's model zoo: `--teacher-weights detectron2` downloads that file, or names it on disk;
`coco` is torchvision's. A file of a backbone alone will do as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from tinydet.backbones.pretrained import load_pretrained, pretrained_preprocessing
from tinydet.backbones.weight_files import WeightFile
from tinydet.detectors import DetectorConfig, build_detector
from tinydet.detectors.anchors import FPN_ANCHORS
from tinydet.detectors.choice import DetectorChoice, detector_config
from tinydet.detectors.faster_rcnn_fpn import FasterRCNNFPNConfig
from tinydet.detectors.published_detector import (
    SHORTER_SIDE,
    PublishedDetector,
    is_detectors,
    load_detector,
    open_detector,
    published_config,
)
from tinydet.errors import InputError
from tinydet.recipes.recipe import RecipeOptions


@dataclass(frozen=True)
class Start:
    """A detector that is still to be trained.

    Attributes:
        weights: of a backbone or of a whole detector; None: all are random.
    """

    choice: DetectorChoice
    config: DetectorConfig
    weights: WeightFile | PublishedDetector | None = None

    def build(self, seed: int) -> Any:
        """The detector; what no file gives is random and depends on `seed` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            detector = build_detector(self.config)
        match self.weights:
            case PublishedDetector():
                load_detector(detector, self.weights)
            case WeightFile():
                load_pretrained(detector, self.weights)
        return detector

    def in_words(self) -> str:
        choice = self.choice
        start = f"from {self.weights.source}" if self.weights else "from random weights"
        return f"{choice.backbone}-1-{choice.width:g} {choice.detector}, shorter side {choice.shorter_side}, {start}"


def dense_start(options: RecipeOptions, classes: tuple[str, ...], frozen: bool = False) -> Start:
    """The paper's Faster R-CNN R50-FPN, as the options change it; without a pyramid where the backbone is no ResNet.

    Args:
        frozen: normalization stays as it is, as in Detectron2, and so has no parameters; it always does with weights.

    Raises:
        InputError: the options do not go together, or the weights do not fit.
    """
    backbone, source = options.backbone or "resnet50", options.teacher_weights
    choice = DetectorChoice(
        "faster_rcnn_fpn" if backbone in ("resnet18", "resnet50") else "faster_rcnn",
        backbone,
        width=options.teacher_width or 1.0,
        shorter_side=options.shorter_side or SHORTER_SIDE,
        normalization="frozen" if source or frozen else "batch",
        anchor_sides=options.anchor_sides,
        anchor_ratios=options.anchor_ratios,
    )
    config = detector_config(choice, classes)
    if source is None:
        return Start(choice, config)
    if is_detectors(source) and not isinstance(config, FasterRCNNFPNConfig):
        raise InputError(f"{source}: weights of Faster R-CNN R50-FPN, not of one on {backbone}: leave --backbone out")
    weights = open_detector(source, config.backbone)
    if isinstance(weights, PublishedDetector) and isinstance(config, FasterRCNNFPNConfig):
        # Its anchors are in pixels of the images that it saw, however large these are now.
        choice = replace(choice, anchor_sides=options.anchor_sides or tuple(side for (side,) in FPN_ANCHORS.sides))
        whole: Any = detector_config(choice, classes)
        start = Start(choice, published_config(whole, weights), weights)
        start.build(0)  # refused now rather than after the data has been read
        return start
    scaled = pretrained_preprocessing(config.preprocessing, config.backbone, weights)  # type: ignore[arg-type]
    return Start(choice, replace(config, preprocessing=scaled), weights)
