"""Weight sharing: the weights of a layer take few distinct values (Han et al. 2016, Deep Compression, section 3).

    shared, report = share(detector, ShareConfig(bits=4))
    train(SharedStep(DetectionStep(shared)), ...)      the shared values learn by the sum of their weights' gradients

Each layer has a codebook of 2 to 256 values found by k-means, which starts from values at equal distances between the
smallest and the largest weight: of the ways to start, the one that keeps the large weights (section 3.2). Weights that
are zero stay so and have no place in the codebook. The result is a plain detector; packing finds the few values by
itself. Weights of convolutions and fully connected layers are shared, biases and normalization are not.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from tinydet.data.batch import Batch
from tinydet.prune.layers import Blocks, chosen_blocks, weighted_layers
from tinydet.training.steps import describe_step

MOST_VALUES = 256
_ITERATIONS = 1000


@dataclass(frozen=True)
class ShareConfig:
    """Attributes:
    bits: of a code; a layer has at most `2 ** bits` values beside zero.
    blocks: any of `backbone`, `proposals`, `heads`, or `all`.
    """

    bits: int = 4
    blocks: Blocks = "all"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"codes of {self.bits} bits: expected 2 to 8")


@dataclass(frozen=True)
class SharedLayer:
    """Attributes:
    values: distinct ones, zero not counted.
    error: root of the mean squared change of a weight, over the root of the mean squared weight.
    """

    layer: str
    block: str
    weights: int
    zeros: int
    values: int
    error: float


@dataclass(frozen=True)
class ShareReport:
    config: ShareConfig
    layers: tuple[SharedLayer, ...]


def share(detector: Any, config: ShareConfig) -> tuple[Any, ShareReport]:
    """A copy of the detector with shared weights, and a report.

    Raises:
        InputError: the detector has no such block.
    """
    shared, rows = copy.deepcopy(detector), []
    for block in chosen_blocks(shared, config.blocks):
        for name, layer in weighted_layers(shared, block).items():
            before = layer.weight.detach().cpu().numpy().copy()
            after = shared_values(before, 2**config.bits)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(after))
            rows.append(_row(name, block, before, after))
    return shared, ShareReport(config, tuple(rows))


def shared_values(weights: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The weights, each the nearest of at most `count` values (zeros stay zeros), of which it is the mean's."""
    nonzero = weights != 0
    values = weights[nonzero]
    if len(values) == 0:
        return weights.copy()
    codebook = k_means(values, count).astype(np.float32)
    shared = np.zeros_like(weights)
    shared[nonzero] = codebook[np.searchsorted((codebook[1:] + codebook[:-1]) / 2, values)]
    return shared


def k_means(values: NDArray[np.floating[Any]], count: int) -> NDArray[np.float64]:
    """At most `count` rising centres of `[N]` values, from centres at equal distances, by Lloyd's iteration to rest.

    On a line the values of a centre lie side by side, so that a step is a search in the sorted values and their running
    sum. A centre that no value is nearest to moves to the value that is farthest from its own.
    """
    ordered = np.sort(values.astype(np.float64))
    distinct = np.unique(ordered)
    if len(distinct) <= count:
        return distinct
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.linspace(ordered[0], ordered[-1], count)
    for _ in range(_ITERATIONS):
        cuts = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        ends = np.concatenate([[0], cuts, [len(ordered)]])
        sizes = np.diff(ends)
        moved = np.diff(sums[ends]) / np.maximum(sizes, 1)
        if (idle := np.flatnonzero(sizes == 0)).size:
            distances = np.abs(ordered - np.repeat(centres, sizes))
            moved[idle] = ordered[np.argpartition(distances, -len(idle))[-len(idle) :]]
            moved = np.sort(moved)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return np.unique(centres)


class Codebook(nn.Module):
    """A layer's shared values, and for each weight the place of its value; place 0 is zero and stays so."""

    codes: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        values, codes = torch.unique(weight.detach(), return_inverse=True)
        nonzero = values != 0
        places = torch.where(nonzero, nonzero.cumsum(0), 0)
        self.values = nn.Parameter(values[nonzero].clone())
        self.register_buffer("codes", places[codes].to(torch.int16))

    def forward(self) -> Tensor:
        """The weight. The gradient of a value is the sum of those of its weights (Deep Compression, Eq. 3)."""
        return torch.cat([self.values.new_zeros(1), self.values])[self.codes.int()]


class SharedStep(nn.Module):
    """Another step, in which the layers with at most 256 distinct weights are trained through their codebooks.

    It is made from a detector that `share` gave. Wraps any step, a mimic's as well.
    """

    detector: Any

    def __init__(self, step: Any) -> None:
        super().__init__()
        self._step = (step,)  # in a tuple: its parts are this module's own, by the same names
        for name, part in step.named_children():
            self.add_module(name, part)
        self.config = {"step": describe_step(step)}
        self.layers: list[str] = []
        codebooks = []
        for block in step.detector.blocks():
            for name, layer in weighted_layers(step.detector, block).items():
                if _is_shared(layer.weight):
                    self.layers.append(f"{name}.weight")
                    codebooks.append(Codebook(layer.weight))
                    layer.weight.requires_grad_(False)
        if not codebooks:
            raise ValueError("no layer of this detector has shared weights: share them first")
        self.codebooks = nn.ModuleList(codebooks)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        weights = {f"detector.{name}": codebook() for name, codebook in zip(self.layers, self.codebooks)}
        return functional_call(self._step[0], weights, (batch,))

    def after_update(self, done: int) -> None:
        """Called by the loop after each optimizer step: the detector gets the values as they are now."""
        with torch.no_grad():
            for name, codebook in zip(self.layers, self.codebooks):
                self.detector.get_parameter(name).copy_(codebook())

    def release(self) -> None:
        """Let the detector's weights be trained one by one again."""
        for name in self.layers:
            self.detector.get_parameter(name).requires_grad_(True)


def _is_shared(weight: Tensor) -> bool:
    values = weight.detach().unique()
    return int((values != 0).sum()) <= min(MOST_VALUES, weight.numel() - 1)


def _row(name: str, block: str, before: NDArray[np.float32], after: NDArray[np.float32]) -> SharedLayer:
    size = float(np.sqrt(np.mean(before.astype(np.float64) ** 2)))
    change = float(np.sqrt(np.mean((after.astype(np.float64) - before) ** 2)))
    values = np.unique(after[after != 0])
    return SharedLayer(name, block, before.size, int((after == 0).sum()), len(values), change / size if size else 0.0)
