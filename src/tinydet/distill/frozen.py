"""A teacher that nothing trains, run on whole batches beside its student; `teacher.py` adds a memory of its answers."""

from __future__ import annotations

import torch
from torch import Tensor

from tinydet.data.batch import Batch
from tinydet.detectors.outputs import Detector


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
