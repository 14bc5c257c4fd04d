"""Channels taken out: the network that is left has smaller layers and is a detector like any other.

    smaller, report = remove_channels(detector, PruneConfig(0.5, "all", "ln", structured=True))

Residual additions, depthwise convolutions, pyramids and heads are followed (`channels`), so that what belongs to a
channel goes with it. Channels that are always zero are taken out by `remove_dead_channels` without any change to what
the network computes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from tinydet.detectors.layer_channels import (
    channels_of_layer,
    count_channels,
    note_channels,
    set_tensor,
)
from tinydet.prune.channels import ChannelGroup, channel_groups
from tinydet.prune.layers import chosen_blocks
from tinydet.prune.masks import PruneConfig, lowest_scores

Removed = Mapping[str, Tensor]
"""By the name of a group: `[channels]` true where a channel goes."""


@dataclass(frozen=True)
class GroupChannels:
    """Attributes:
    group: the layer that makes the channels.
    before, after: how many.
    """

    group: str
    block: str
    before: int
    after: int


@dataclass(frozen=True)
class RemovalReport:
    """Attributes:
    groups: every group of channels that can go; `after` is `before` where none was asked for.
    """

    config: Any
    groups: tuple[GroupChannels, ...]
    parameters_before: int
    parameters_after: int

    def sparsity(self, block: str) -> float:
        """Share of the block's channels that is gone."""
        own = [group for group in self.groups if group.block == block]
        return 1 - sum(group.after for group in own) / sum(group.before for group in own)


def remove_channels(detector: Any, config: PruneConfig) -> tuple[Any, RemovalReport]:
    """A copy without the channels that the configuration chooses by the norms of their filters, or by chance.

    A channel's score is the mean over the layers that make it of its filter's norm, divided by its number of weights to
    the power 1 / n. With `global` scope a block loses exactly the share of its channels that is asked for, coupled ones
    counted once; with `local` each group does. Every group keeps a channel.

    Raises:
        InputError: the detector has no such block, or so many channels cannot go.
    """
    groups = channel_groups(detector)
    removed: dict[str, Tensor] = {}
    for place, block in enumerate(chosen_blocks(detector, config.blocks)):
        own = [group for group in groups if group.block == block]
        seeded = replace(config, structured=True, seed=config.seed * 64 + place)
        scores = _random_scores(own, seeded.seed) if config.method == "random" else None
        scores = scores or [filter_norms(detector, group, config.order) for group in own]
        if own:
            removed |= {group.name: gone for group, gone in zip(own, lowest_scores(scores, seeded))}
    smaller = without_channels(detector, groups, removed)
    return smaller, removal_report(config, detector, smaller, groups)


def remove_dead_channels(detector: Any) -> tuple[Any, RemovalReport]:
    """A copy without the channels that are zero whatever the image; it computes the same."""
    groups = channel_groups(detector)
    removed = {}
    for group in groups:
        dead = dead_channels(detector, group)
        if dead.all():
            dead[0] = False  # a layer without channels is none
        removed[group.name] = dead
    smaller = without_channels(detector, groups, removed)
    return smaller, removal_report(None, detector, smaller, groups)


@torch.no_grad()
def without_channels(detector: Any, groups: tuple[ChannelGroup, ...], removed: Removed) -> Any:
    """A copy of the detector without these channels."""
    smaller = copy.deepcopy(detector)
    changed: set[str] = set()
    for group in groups:
        gone = removed.get(group.name)
        if gone is None or not gone.any():
            continue
        for member in group.members:
            layer = smaller.get_submodule(member.layer)
            kept = torch.ones(_length(layer, member.axis), dtype=torch.bool)
            kept[member.entries[gone].flatten()] = False
            _keep(layer, member.axis, kept)
            changed.add(member.layer)
    for name in changed:
        count_channels(smaller.get_submodule(name))
    if changed:
        note_channels(smaller, {name: channels_of_layer(smaller.get_submodule(name)) for name in sorted(changed)})
    return smaller


@torch.no_grad()
def with_zero_channels(detector: Any, groups: tuple[ChannelGroup, ...], removed: Removed) -> Any:
    """A copy in which these channels are zero: weights, biases, and the normalization's scale and shift."""
    zeroed = copy.deepcopy(detector)
    for group in groups:
        if group.name in removed:
            for member in group.outputs():
                layer = zeroed.get_submodule(member.layer)
                for name in ("weight", "bias"):
                    tensor = getattr(layer, name)
                    if tensor is not None:
                        tensor[member.entries[removed[group.name]].flatten()] = 0
    return zeroed


@torch.no_grad()
def dead_channels(detector: Any, group: ChannelGroup) -> Tensor:
    """`[channels]` true where a channel is zero whatever the image."""
    layers = [(detector.get_submodule(member.layer), member.entries[:, 0]) for member in group.outputs()]
    norms = [(layer, at) for layer, at in layers if isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d)]
    weighted = [(layer, at) for layer, at in layers if isinstance(layer, nn.Conv2d | nn.Linear)]
    silent = torch.stack([_without_weights(layer)[at] for layer, at in weighted]).all(dim=0)
    if not norms:
        return silent
    shut = torch.stack([((layer.weight == 0) & (layer.bias == 0))[at] for layer, at in norms]).all(dim=0)
    quiet = torch.stack([(_answer_to_zero(layer) == 0)[at] for layer, at in norms]).all(dim=0)
    return silent & quiet | (shut if len(norms) == len(weighted) else silent & shut)


def filter_norms(detector: Any, group: ChannelGroup, order: float) -> Tensor:
    """`[channels]` the mean over the group's convolutions and fully connected layers of their filters' norms."""
    norms = []
    for member in group.outputs():
        layer = detector.get_submodule(member.layer)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            filters = layer.weight.detach().float().flatten(1)[member.entries[:, 0]]  # [channels, weights of each]
            norms.append(filters.abs().pow(order).mean(dim=1).pow(1 / order))
    return torch.stack(norms).mean(dim=0)


def removal_report(config: Any, before: Any, after: Any, groups: tuple[ChannelGroup, ...]) -> RemovalReport:
    return RemovalReport(
        config,
        tuple(
            GroupChannels(
                group.name, group.block, group.channels, channels_of_layer(after.get_submodule(group.name))[0]
            )
            for group in groups
        ),
        sum(parameter.numel() for parameter in before.parameters()),
        sum(parameter.numel() for parameter in after.parameters()),
    )


def _random_scores(groups: list[ChannelGroup], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(group.channels, generator=generator) for group in groups]


def _length(layer: nn.Module, axis: str) -> int:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.shape[0 if axis == "out" else 1]


def _keep(layer: nn.Module, axis: str, kept: Tensor) -> None:
    if axis == "in":
        set_tensor(layer, "weight", layer.weight[:, kept])  # type: ignore[index, arg-type]
        return
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if tensor.ndim:  # the number of batches seen is no channel's
            set_tensor(layer, name, tensor[kept])


def _without_weights(layer: nn.Conv2d | nn.Linear) -> Tensor:
    zero = (layer.weight == 0).flatten(1).all(dim=1)
    return zero if layer.bias is None else zero & (layer.bias == 0)


def _answer_to_zero(norm: Any) -> Tensor:
    """`[channels]` what a normalization makes of a channel that is zero."""
    return norm.bias - norm.running_mean * (norm.weight / (norm.running_var + norm.eps).sqrt())
