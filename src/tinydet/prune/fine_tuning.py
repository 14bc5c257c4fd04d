"""Training on with pruned weights: zeros stay zeros, and a gradual schedule adds to them.

    step = MaskedStep(DetectionStep(pruned))                                   what is zero stays so
    step = MaskedStep(DetectionStep(dense), GradualConfig(PruneConfig(0.8), until=1000))

It wraps any step, a mimic's as well, and goes through the one training loop. A weight that is exactly zero when
training starts counts as pruned; no mask is stored. Where the weights saved are a moving average, prune before and not
gradually: the average still remembers the weights that have gone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tinydet.data.batch import Batch
from tinydet.prune.layers import weighted_layers
from tinydet.prune.masks import PruneConfig, prune_in_place
from tinydet.training.steps import describe_step


@dataclass(frozen=True)
class GradualConfig:
    """Sparsity that grows while training (Zhu and Gupta 2017, Eq. 1, from 0 on).

    Attributes:
        prune: what is pruned, and the last sparsity.
        until: optimizer steps after which it is reached; those that follow only train.
        stages: how often weights are pruned; the k-th time after `until * k / stages` steps.
    """

    prune: PruneConfig
    until: int
    stages: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.stages <= self.until:
            raise ValueError(f"{self.stages} stages of pruning within {self.until} steps: expected 1 to {self.until}")

    def stage_after(self, steps: int) -> int | None:
        """The stage, counted from 1, that is due after so many optimizer steps; None where none is."""
        stages = (round(self.until * stage / self.stages) for stage in range(1, self.stages + 1))
        return next((index for index, due in enumerate(stages, 1) if due == steps), None)

    def at_stage(self, stage: int) -> PruneConfig:
        """s_f (1 - (1 - t)^3), t from 0 to 1."""
        return replace(self.prune, sparsity=self.prune.sparsity * (1 - (1 - stage / self.stages) ** 3))


class MaskedStep(nn.Module):
    """Another step, in which weights that are zero neither count nor change."""

    detector: Any

    def __init__(self, step: Any, gradual: GradualConfig | None = None) -> None:
        super().__init__()
        self._step, self.gradual = (step,), gradual  # in a tuple: its parts are this module's own, by the same names
        for name, part in step.named_children():
            self.add_module(name, part)
        self.config = {"step": describe_step(step), "gradual": gradual}
        self._zeros: dict[str, Tensor] | None = None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The step's losses; no gradient reaches what is zero."""
        parameters = dict(self.detector.named_parameters())
        masked = {
            f"detector.{name}": parameters[name].masked_fill(zero, 0.0) for name, zero in self._zero_weights().items()
        }
        return functional_call(self._step[0], masked, (batch,))

    def after_update(self, done: int) -> None:
        """Called by the loop after each optimizer step: momentum may have moved what is zero."""
        with torch.no_grad():
            for name, zero in self._zero_weights().items():
                self.detector.get_parameter(name).masked_fill_(zero, 0.0)
        after_update = getattr(self._step[0], "after_update", None)
        if after_update:
            after_update(done)
        stage = self.gradual.stage_after(done) if self.gradual else None
        if self.gradual and stage:
            prune_in_place(self.detector, self.gradual.at_stage(stage))
            self._zeros = None

    def _zero_weights(self) -> dict[str, Tensor]:
        """Taken late, when a run that goes on has its weights back."""
        if self._zeros is None:
            weights = {
                f"{name}.weight": layer.weight.detach() == 0
                for block in self.detector.blocks()
                for name, layer in weighted_layers(self.detector, block).items()
            }
            self._zeros = {name: zero for name, zero in weights.items() if zero.any()}
        return self._zeros
