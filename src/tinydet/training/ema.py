"""An exponential moving average of the weights: smoother than those of any one step, at no cost when they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """The average of a module's parameters; buffers (running statistics) are averages already and are left as they are.

    Early on the decay is lower, (1 + step) / (10 + step), so that the first weights are forgotten (as in TensorFlow's
    ExponentialMovingAverage with `num_updates`).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.averages = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = [parameter.detach() for parameter in self.module.parameters()]
        torch._foreach_lerp_(list(self.averages.values()), current, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the averaged weights within this block."""
        trained = {name: parameter.detach().clone() for name, parameter in self.module.named_parameters()}
        self._set(self.averages)
        try:
            yield
        finally:
            self._set(trained)

    def apply(self) -> None:
        """Give the module the averaged weights for good."""
        self._set(self.averages)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from these averages; other names are passed over."""
        for name, average in self.averages.items():
            average.copy_(tensors[name])

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.module.named_parameters():
            parameter.copy_(values[name])
