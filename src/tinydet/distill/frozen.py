"""A teacher that nothing trains, run on whole batches beside its student; `teacher.py` adds a memory of its answers."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tinydet.data.batch import Batch
from tinydet.detectors.outputs import Detector
from tinydet.errors import InputError
from tinydet.training.checkpoint import load_checkpoint


def load_teacher(checkpoint: Path, classes: tuple[str, ...]) -> Detector:
    """The trained detector of a checkpoint.

    Raises:
        InputError: there is none, or it does not know the data's classes, in their order.
    """
    detector, info = load_checkpoint(checkpoint)
    if info.classes != classes:
        raise InputError(f"{checkpoint}: a teacher of {', '.join(info.classes)}; the data has {', '.join(classes)}")
    return detector


class FrozenTeacher:
    """A detector in evaluation mode that nothing trains. No module: a step that holds it has none of its weights."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector.eval().requires_grad_(False)  # type: ignore[attr-defined]

    def on(self, device: torch.device) -> Detector:
        self.detector.to(device)
        return self.detector

    @torch.no_grad()
    def features(self, batch: Batch) -> tuple[Tensor, ...]:
        """The maps before the quantizer, of the batch as a whole."""
        return self.on(batch.images.device).features(batch)
