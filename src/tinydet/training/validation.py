"""Detecting in whole data sets with a torch detector, and measuring what it found."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tinydet.data.batch import Batch
from tinydet.data.loader import Rendered, collate
from tinydet.data.transforms import View, resized_pixels, scaled_boxes
from tinydet.detectors.outputs import DetectedTensors
from tinydet.errors import InputError
from tinydet.evaluation import Protocol, evaluate
from tinydet.processes import process_place
from tinydet.records import Detections, Sample

log = logging.getLogger("tinydet")


@dataclass(frozen=True)
class Validation:
    """What a validation found: `score`, which chooses the best checkpoint (higher is better), and plain metrics."""

    score: float
    metrics: dict[str, Any] = field(default_factory=dict)


def detect_samples(
    detector: Any,
    samples: Sequence[Sample],
    batch_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Detections]:
    """Detections by image id, in the pixels of the original images; on the detector's device, in evaluation mode.

    Args:
        batch_size: images of different sizes are padded to one batch, which may change scores a little; 1 does not.
        progress: called with the images done and their number.

    Images that cannot be read are named in a warning each and left out.
    """
    device = next(detector.parameters()).device
    found: dict[str, Detections] = {}
    with evaluating(detector):
        for start in range(0, len(samples), batch_size):
            batch = readable_batch(samples[start : start + batch_size], detector.config.preprocessing)
            if batch is not None:
                results = detector.postprocess(detector(batch.to(device)))
                for place, result in enumerate(results):
                    found[batch.image_ids[place]] = to_original(
                        result, batch.sizes_hw[place], batch.original_sizes_hw[place]
                    )
            if progress:
                progress(min(start + batch_size, len(samples)), len(samples))
    return found


def to_original(detected: DetectedTensors, size_hw: tuple[int, int], original_hw: tuple[int, int]) -> Detections:
    """Detections in a resized image to the pixels of the image before, cut to it.

    Those of a network whose training has diverged may be no numbers; they are left out.
    """
    boxes, scores = detected.boxes_xyxy.float(), detected.scores.float()
    finite = boxes.isfinite().all(dim=1) & scores.isfinite()
    boxes_xyxy = scaled_boxes(boxes[finite].cpu().numpy(), size_hw, original_hw)
    height, width = original_hw
    boxes_xyxy = np.clip(boxes_xyxy, 0, np.array([width, height, width, height], np.float32))
    return Detections(boxes_xyxy, scores[finite].cpu().numpy(), detected.labels[finite].cpu().numpy())


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """The module is in evaluation mode, without gradients, and as it was afterwards."""
    was_training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in was_training:
            part.training = True


class Validate:
    """Measures a detector on samples, by the protocol given; with several processes each detects in its share.

    Args:
        classes: names that labels index.
        protocol: `voc07`, `voc` or `coco`. (`wider` needs the official files; `voc` is near it during training.)
    """

    def __init__(
        self, samples: Sequence[Sample], classes: Sequence[str], protocol: Protocol, batch_size: int = 1
    ) -> None:
        if not samples:
            raise InputError("there is no sample to validate on")
        self.samples, self.classes, self.protocol = tuple(samples), tuple(classes), protocol
        self.batch_size = batch_size

    def __call__(self, detector: Any) -> Validation:
        rank, world_size = process_place()
        found = detect_samples(detector, self.samples[rank::world_size], self.batch_size)
        if world_size > 1:
            parts: list[Any] = [None] * world_size
            torch.distributed.all_gather_object(parts, found)
            found = {image_id: detections for part in parts for image_id, detections in part.items()}
        read = [sample for sample in self.samples if sample.image_id in found]
        if not read:
            raise InputError(f"none of the {len(self.samples)} validation images can be read")
        result = evaluate(read, found, self.classes, self.protocol)
        score = result.primary if math.isfinite(result.primary) else 0.0  # NaN: nothing was there to be found
        return Validation(score, result.as_json()["metrics"])


def readable_batch(samples: Sequence[Sample], preprocessing: Any) -> Batch | None:
    """Samples as they are tested, without targets; those that cannot be read are named in a warning and left out."""
    rendered = []
    for sample in samples:
        try:
            pixels, original_hw = resized_pixels(sample, preprocessing, View())
        except InputError as error:
            log.warning("sample %r is left out: %s", sample.image_id, error)
            continue
        rendered.append(Rendered(sample.image_id, View().name(sample.image_id), pixels, original_hw, None))
    return collate(rendered) if rendered else None
