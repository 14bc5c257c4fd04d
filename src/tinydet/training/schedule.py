"""How long, how fast and how a detector is trained: stochastic gradient descent with steps in the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

Precision = Literal["32", "bf16", "16"]


@dataclass(frozen=True)
class Schedule:
    """Everything about the optimization but the loss.

    Attributes:
        iterations: optimizer steps.
        learning_rate: before the first milestone, after the warm-up.
        milestones: where the learning rate is multiplied by `gamma`, as fractions of `iterations`.
        warmup_iterations: over which the learning rate rises linearly to its value.
        batch_size: images in a step, over all processes.
        clip_norm: gradients are scaled down to this norm; None: not.
        ema_decay: the weights that are validated and saved are a moving average of those trained; None: they are those
            trained.
        decay_all: weight decay on biases and normalization too, as the papers' Caffe has it.
        precision: of the forward and backward pass; weights are float32.
    """

    iterations: int
    learning_rate: float = 0.001
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup_iterations: int = 0
    momentum: float = 0.9
    weight_decay: float = 0.0005
    batch_size: int = 1
    clip_norm: float | None = None
    ema_decay: float | None = None
    decay_all: bool = True
    precision: Precision = "32"

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.batch_size < 1 or self.warmup_iterations < 0:
            raise ValueError(
                f"{self.iterations} iterations of {self.batch_size} images, {self.warmup_iterations} of warm-up"
            )
        if not 0 < self.learning_rate < math.inf or not 0 <= self.weight_decay < math.inf or not 0 <= self.momentum < 1:
            raise ValueError(
                f"learning rate {self.learning_rate}, momentum {self.momentum}, weight decay {self.weight_decay}"
            )
        if any(not 0 < at < 1 for at in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones {self.milestones} are not rising fractions between 0 and 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"gradients cannot be clipped to norm {self.clip_norm}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"the moving average's decay {self.ema_decay} is not between 0 and 1")

    def scaled(self, budget: float) -> Schedule:
        """The same course in `budget` times the iterations: 1 is the paper's whole training, 0.01 a hundredth of it."""
        if budget <= 0:
            raise ValueError(f"budget {budget} is not positive")
        return replace(
            self,
            iterations=max(1, round(self.iterations * budget)),
            warmup_iterations=round(self.warmup_iterations * budget),
        )

    def learning_rate_at(self, step: int) -> float:
        """Of a step, counted from 0."""
        passed = sum(step >= round(at * self.iterations) for at in self.milestones)
        warmth = min(1.0, (step + 1) / self.warmup_iterations) if self.warmup_iterations else 1.0
        return self.learning_rate * self.gamma**passed * warmth


R_FCN_SCHEDULE = Schedule(80_000, milestones=(50 / 80,))
"""Wei et al. 2018, section 3.5, VGG with R-FCN: 50k iterations at 0.001, 30k at 0.0001. No batch size is given."""

RESNET_SCHEDULE = Schedule(40_000, milestones=(30 / 40,))
"""The same, ResNet with Faster R-CNN: 30k, then 10k. The text prints 0.001 for both; 0.0001 is used, as for R-FCN."""

REPRODUCTION_SCHEDULE = Schedule(110_000)
"""The reproduction: 110k iterations at 0.001; it names no decay of the learning rate."""


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], schedule: Schedule) -> list[dict[str, Any]]:
    """Optimizer groups: weights with decay, and, unless `decay_all`, vectors (biases, normalization) without."""
    trained = [parameter for _, parameter in named if parameter.requires_grad]
    if schedule.decay_all:
        return [{"params": trained, "weight_decay": schedule.weight_decay}]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
