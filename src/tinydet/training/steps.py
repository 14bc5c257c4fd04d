"""What the loop trains: a step, from a batch to the losses that are added up.

What differs between training from scratch, mimic, distillation and quantization-aware training is the step alone.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from tinydet.config import to_plain
from tinydet.data.batch import Batch


class Step(Protocol):
    """An `nn.Module` from a batch to its losses.

    `step(batch)` gives the weighted losses by name, always the same names; their sum is descended. The parameters that
    require a gradient are trained, and all of `state_dict()` is saved: a teacher is therefore held outside the module
    (in a tuple), where neither reaches it.

    With several processes each one's losses are of its part of the batch, and gradients are averaged over processes.
    That is the whole batch's gradient where a loss is a mean over images; a loss that divides by a count over the batch
    passes the count through `tinydet.processes.mean_over_processes`. Batch normalization that trains takes each
    process's own statistics.

    A step may also have `after_update(done)`, called after each optimizer step with the number of those done: where
    weights must keep a form that the optimizer knows nothing of (zeros that stay zero, values that stay shared).

    Attributes:
        detector: what is being made: it is validated and saved, and its `config` with it.
    """

    detector: Any

    def __call__(self, batch: Batch) -> dict[str, Tensor]: ...


class DetectionStep(nn.Module):
    """The detector's own losses: training from scratch, fine-tuning, and (with a quantizer) quantized training."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.detector.criterion(self.detector(batch), batch.targets)


def describe_step(step: nn.Module) -> dict[str, Any]:
    """What a checkpoint says of its step: the class, and its `config` where it has one."""
    config = getattr(step, "config", None)
    return {"type": type(step).__name__, **({} if config is None else {"config": to_plain(config)})}
