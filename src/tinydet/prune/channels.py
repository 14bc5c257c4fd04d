"""Channels that can only go together: which entries of which layers belong to each channel of a detector.

A channel that a convolution makes is also one of its normalization's, of the depthwise convolution that follows, of
every layer that is added to it, and an input of all that reads it. Torch-Pruning's dependency graph finds these from
one pass through the layers; the slicing is ours (`remove`), so that frozen normalization and checkpoints go with it.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from tinydet.detectors.layer_channels import JoinedLayers, is_depthwise
from tinydet.prune.layers import output_layers


@dataclass(frozen=True, eq=False)
class Member:
    """A layer's part in a group.

    Attributes:
        axis: `out`: along the first axis of its tensors; `in`: along the second of its weight.
        entries: `[channels, k]` places along this axis that belong to each channel; k is above 1 where a fully
            connected layer reads every cell of a map.
    """

    layer: str
    axis: Literal["out", "in"]
    entries: Tensor


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels of which each is taken out of all members, or of none.

    Attributes:
        name: the layer that makes them; of several, the first in the network.
        members: in the network's order.
    """

    name: str
    block: str
    channels: int
    members: tuple[Member, ...]

    def outputs(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.axis == "out")

    def inputs(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.axis == "in")


def channel_groups(detector: Any) -> tuple[ChannelGroup, ...]:
    """Every group whose channels can go, in the network's order.

    Outputs that are classes and boxes are in none, nor is what a convolution in two or more groups (other than a
    depthwise one) makes or reads.
    """
    import torch_pruning

    joined = JoinedLayers(_with_plain_normalization(detector))
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (joined.example(),)  # a tensor by itself would be unpacked into its images
        graph = torch_pruning.DependencyGraph().build_dependency(joined, example_inputs=example, verbose=False)
        found = list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))
    layers = {module: name.removeprefix("detector.") for name, module in joined.named_modules()}
    places = {name: place for place, name in enumerate(layers.values())}
    outputs = output_layers(detector)
    groups = []
    for group in found:
        members = tuple(sorted(_members(group, layers, graph), key=lambda member: places[member.layer]))
        fixed = any(member.axis == "out" and member.layer in outputs for member in members)
        if not fixed and not any(_in_groups(detector.get_submodule(member.layer)) for member in members):
            name = next(member.layer for member in members if member.axis == "out")
            groups.append(ChannelGroup(name, _block_of(detector, name), len(members[0].entries), members))
    return tuple(sorted(groups, key=lambda group: places[group.name]))


def _members(group: Any, layers: dict[nn.Module, str], graph: Any) -> list[Member]:
    channels = len(group[0].idxs)
    members: dict[tuple[str, str], Member] = {}
    for item in group:
        name = layers.get(item.dep.target.module)
        if name is None:
            continue  # an operation without weights
        axis: Literal["out", "in"] = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
        entries: list[list[int]] = [[] for _ in range(channels)]
        for entry, channel in zip(item.idxs, item.root_idxs):
            entries[channel].append(int(entry))
        members.setdefault((name, axis), Member(name, axis, torch.tensor(entries)))
    return list(members.values())


def _in_groups(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and not is_depthwise(layer)


def _block_of(detector: Any, layer: str) -> str:
    wanted = detector.get_submodule(layer)
    return next(name for name, block in detector.blocks().items() if any(m is wanted for m in block.modules()))


def _with_plain_normalization(detector: Any) -> Any:
    """A copy on the CPU that can be traced: frozen normalization is not a layer that Torch-Pruning knows."""
    traced = copy.deepcopy(detector).cpu().float().eval().requires_grad_(True)
    for name, module in list(traced.named_modules()):
        if isinstance(module, FrozenBatchNorm2d):
            parent, _, last = name.rpartition(".")
            setattr(traced.get_submodule(parent), last, nn.BatchNorm2d(len(module.weight)).eval())
    return traced
