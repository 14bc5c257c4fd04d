"""The torch route with the runtime's interface: to compare with, and for checkpoints that are not exported yet."""

from __future__ import annotations

import os
from typing import Any, overload

import numpy as np
import torch
from PIL import Image

from tinydet.data.batch import Batch
from tinydet.records import Detections
from tinydet.runtime.decoding import ImageLike, decode
from tinydet.runtime.description import ModelDescription
from tinydet.runtime.resizing import Pixels


class EagerDetector:
    """A torch detector on one image at a time.

    Args:
        detector: of `tinydet.detectors`.
        metrics: what was measured of it.
    """

    engine = "torch"

    def __init__(self, detector: Any, metrics: dict[str, Any] | None = None, device: str = "cpu") -> None:
        from tinydet.export.network import describe

        self.detector = detector.eval().to(device)
        self.device = torch.device(device)
        self.description: ModelDescription = describe(detector, metrics or {}, {}, ())

    @property
    def classes(self) -> tuple[str, ...]:
        return self.description.classes

    @overload
    def __call__(self, image: ImageLike) -> Detections: ...
    @overload
    def __call__(self, image: list[ImageLike]) -> list[Detections]: ...
    def __call__(self, image: ImageLike | list[ImageLike]) -> Detections | list[Detections]:
        """As `tinydet.Detector`."""
        if isinstance(image, list):
            return [self(one) for one in image]
        pixels = decode(image)
        return self.finish(self.run(self.prepare(pixels)), pixels)

    def prepare(self, pixels: Pixels) -> Pixels:
        """`[H, W, 3]` RGB to the network's input `[h, w, C]`."""
        return self.description.preprocessing(Image.fromarray(pixels))

    @torch.no_grad()
    def run(self, prepared: Pixels) -> tuple[Any, Any, Any]:
        """Boxes in pixels of the resized image, scores and labels."""
        size_hw = (prepared.shape[0], prepared.shape[1])
        images = torch.from_numpy(np.array(prepared)).permute(2, 0, 1)[None].float()
        batch = Batch(images, (size_hw,), (size_hw,), (), ("",), ("",)).to(self.device)
        (found,) = self.detector.postprocess(self.detector(batch))
        return found.boxes_xyxy.cpu().numpy(), found.scores.cpu().numpy(), found.labels.cpu().numpy()

    def finish(self, found: tuple[Any, Any, Any], pixels: Pixels) -> Detections:
        """Detections in pixels of the image."""
        height, width = pixels.shape[:2]
        resized_hw = self.description.preprocessing.resized_hw((height, width))
        scale = np.array([width / resized_hw[1], height / resized_hw[0]] * 2, np.float32)
        boxes, scores, labels = found
        return Detections(np.minimum(boxes * scale, np.array([width, height] * 2, np.float32)), scores, labels)


def load_eager(folder: str | os.PathLike[str], device: str = "cpu") -> EagerDetector:
    """The detector of a checkpoint folder.

    Raises:
        InputError: there is no checkpoint, or it is damaged.
    """
    from tinydet.training.checkpoint import load_checkpoint

    detector, info = load_checkpoint(folder)
    return EagerDetector(detector, info.metrics, device)
