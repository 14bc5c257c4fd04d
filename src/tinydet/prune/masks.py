"""Pruning by masks: weights become zero and the network keeps its shape (Compressed Objects Detection, section 3.1).

    PruneConfig(0.3)                                       L1 global unstructured, the backbone
    PruneConfig(0.5, "all", "ln", structured=True, n=2)    L2 norm of whole output channels, over each block
    PruneConfig(0.5, ("heads",), "random", scope="local")  by chance, every layer alike

Weights of convolutions and fully connected layers are pruned; biases and normalization are not, and do not count. What
is asked for is reached to the entry (structured: to the channel), in each block by itself, as in that paper: the blocks
differ too much for one comparison. Zeros that are there already count and stay, so that pruning again goes on from
them. The masks are the zeros themselves: a pruned checkpoint is a plain one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from tinydet.errors import InputError
from tinydet.prune.layers import (
    Blocks,
    LayerSparsity,
    WeightedLayer,
    chosen_blocks,
    layer_sparsities,
    output_layers,
    sparsity_of,
    weighted_layers,
)

Method = Literal["l1", "ln", "random"]
Scope = Literal["global", "local"]


@dataclass(frozen=True)
class PruneConfig:
    """What is pruned, how much, and by what measure.

    Attributes:
        sparsity: share of the weights (structured: of the channels) that are to be zero, from 0 to 1.
        blocks: any of `backbone`, `proposals`, `heads`, or `all`.
        method: the smallest entries or channels go by their L1 or Ln norm, or any by chance.
        structured: whole channels instead of single weights.
        n: order of the `ln` norm. For single weights every order ranks alike.
        dim: of structured pruning: 0 output channels, 1 input channels. Output channels that are classes and boxes stay
            and are not counted.
        scope: `global` compares over a block, `local` prunes the same share of every layer. Globally, a channel's norm
            is divided by its number of weights to the power 1 / n, without which small layers would go first. Every
            layer keeps a channel.
    """

    sparsity: float
    blocks: Blocks = ("backbone",)
    method: Method = "l1"
    structured: bool = False
    n: float = 2.0
    dim: int = 0
    scope: Scope = "global"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity <= 1:
            raise ValueError(f"sparsity {self.sparsity}: expected a share from 0 to 1, such as 0.3")
        if self.blocks != "all" and not self.blocks:
            raise ValueError("no block to prune: name backbone, proposals, heads, or all")
        if self.n <= 0 or self.dim not in (0, 1):
            raise ValueError(f"norm of order {self.n} along dimension {self.dim}: expected above 0, and 0 or 1")

    @property
    def order(self) -> float:
        return 1.0 if self.method == "l1" else self.n


@dataclass(frozen=True)
class PruneReport:
    """Attributes:
    layers: every convolution and fully connected layer of the detector.
    pruned_blocks: those that the configuration names.
    """

    config: PruneConfig
    layers: tuple[LayerSparsity, ...]
    pruned_blocks: tuple[str, ...]

    @property
    def sparsity(self) -> float:
        """Of all weights in the blocks that were pruned."""
        return sparsity_of(tuple(row for row in self.layers if row.block in self.pruned_blocks))

    @property
    def total_sparsity(self) -> float:
        """Of all weights in the detector."""
        return sparsity_of(self.layers)


def prune(detector: Any, config: PruneConfig) -> tuple[Any, PruneReport]:
    """A copy of the detector with zeros, and a report.

    Raises:
        InputError: the detector has no such block, or so many channels cannot go.
    """
    pruned = copy.deepcopy(detector)
    prune_in_place(pruned, config)
    return pruned, PruneReport(config, layer_sparsities(pruned), chosen_blocks(pruned, config.blocks))


@torch.no_grad()
def prune_in_place(detector: Any, config: PruneConfig) -> None:
    """Set the weights that the configuration chooses to zero."""
    for place, block in enumerate(chosen_blocks(detector, config.blocks)):
        layers = weighted_layers(detector, block)
        if config.structured and config.dim == 0:
            layers = {name: layer for name, layer in layers.items() if name not in output_layers(detector)}
        seeded = replace(config, seed=config.seed * 64 + place)
        for layer, kept in zip(layers.values(), kept_weights(list(layers.values()), seeded)):
            layer.weight.masked_fill_(~kept, 0.0)


def kept_weights(layers: list[WeightedLayer], config: PruneConfig) -> list[Tensor]:
    """One boolean mask a layer, true where the weight stays."""
    scores = _scores(layers, config)
    removed = lowest_scores(scores, config)
    if not config.structured:
        return [~gone.reshape(layer.weight.shape) for layer, gone in zip(layers, removed)]
    return [~_slices(layer, gone, config.dim) for layer, gone in zip(layers, removed)]


def lowest_scores(scores: list[Tensor], config: PruneConfig) -> list[Tensor]:
    """True at the lowest `[N]` scores of each layer or, with `global` scope, of all layers together."""
    return _lowest_of_each(scores, config) if config.scope == "local" else _lowest_of_all(scores, config)


def _scores(layers: list[WeightedLayer], config: PruneConfig) -> list[Tensor]:
    """What is compared: a flat score for each entry or channel of each layer; below 0 where all is zero already."""
    generator = torch.Generator().manual_seed(config.seed)
    scores = []
    for layer in layers:
        size = layer.weight.detach().float().abs()
        if config.structured:
            channels = size.transpose(0, config.dim).flatten(1)  # [channels, weights of each]
            largest, means = channels.amax(dim=1), channels.pow(config.order).mean(dim=1).pow(1 / config.order)
        else:
            largest = means = size.flatten()
        if config.method == "random":
            means = torch.rand(means.shape, generator=generator).to(means)
        scores.append(means.masked_fill(largest == 0, -1.0))
    return scores


def _lowest_of_each(scores: list[Tensor], config: PruneConfig) -> list[Tensor]:
    counts = [round(config.sparsity * len(score)) for score in scores]
    if config.structured and config.sparsity < 1:
        counts = [min(count, len(score) - 1) for count, score in zip(counts, scores)]  # without one nothing would pass
    return [_lowest(score, count) for score, count in zip(scores, counts)]


def _lowest_of_all(scores: list[Tensor], config: PruneConfig) -> list[Tensor]:
    compared, lengths = torch.cat(scores), [len(score) for score in scores]
    count = round(config.sparsity * len(compared))
    if config.structured and config.sparsity < 1:
        starts = [sum(lengths[:index]) for index in range(len(lengths))]
        best = [start + int(score.argmax()) for start, score in zip(starts, scores)]
        if count > len(compared) - len(best):
            raise InputError(
                f"sparsity {config.sparsity}: {count} of {len(compared)} channels cannot go while each of the "
                f"{len(best)} layers keeps one; the most is {(len(compared) - len(best)) / len(compared):.4f}"
            )
        compared = compared.clone()
        compared[best] = torch.inf
    return list(_lowest(compared, count).split(lengths))


def _lowest(scores: Tensor, count: int) -> Tensor:
    """`[N]` true at the `count` lowest scores, to the entry even where many are equal."""
    chosen = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    chosen[scores.topk(count, largest=False, sorted=False).indices] = True
    return chosen


def _slices(layer: WeightedLayer, channels: Tensor, dim: int) -> Tensor:
    """A layer's weights that belong to these channels."""
    shape = [1] * layer.weight.ndim
    shape[dim] = -1
    return channels.reshape(shape).expand(layer.weight.shape)
