"""Channels chosen by their effect on the loss: first-order Taylor importance (Molchanov et al. 2016).

    for each of the rounds:  measure -> remove the least important channels -> fine-tune

To first order the loss changes by gradient times activation when an activation becomes zero (Eq. 5 to 8). A channel's
score is the mean over images of |mean over positions of activation * gradient|, then divided by the L2 norm of the
scores of its layer (section 2.2, "re-scaling"), which makes layers comparable. Channels that can only go together
(residual additions) change the loss together: their products are added before the absolute value.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from tinydet.data.batch import Batch
from tinydet.detectors.layer_channels import is_depthwise
from tinydet.prune.channels import ChannelGroup, channel_groups
from tinydet.prune.layers import Blocks, chosen_blocks
from tinydet.prune.masks import PruneConfig, Scope, lowest_scores
from tinydet.prune.remove import RemovalReport, removal_report, without_channels


@dataclass(frozen=True)
class TaylorConfig:
    """Attributes:
    sparsity: share of the channels of each block that goes in all; coupled channels count once.
    rounds: of measuring, removing and fine-tuning.
    batches: measured on in each round.
    scope: `global` compares the channels of a block, as in the paper; `local` takes the same share of every group.
    """

    sparsity: float
    blocks: Blocks = ("backbone",)
    rounds: int = 5
    batches: int = 32
    scope: Scope = "global"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1 or self.rounds < 1 or self.batches < 1:
            raise ValueError(f"sparsity {self.sparsity} in {self.rounds} rounds, measured on {self.batches} batches")


def prune_by_taylor(
    detector: Any,
    config: TaylorConfig,
    batches: Callable[[int], Iterable[Batch]],
    fine_tune: Callable[[Any, int], Any] = lambda smaller, place: smaller,
) -> tuple[Any, RemovalReport]:
    """A copy without the channels that matter least to the loss.

    Args:
        batches: labelled batches of a round, counted from 0; at most `config.batches` are taken.
        fine_tune: called with the smaller detector after each round; gives what goes on.

    Raises:
        InputError: the detector has no such block, or so many channels cannot go.
    """
    smaller = copy.deepcopy(detector)
    before = channel_groups(detector)
    for place in range(config.rounds):
        groups = channel_groups(smaller)
        limited = (batch for _, batch in zip(range(config.batches), batches(place)))
        scores = taylor_scores(smaller, groups, limited, config.seed + place)
        removed: dict[str, Tensor] = {}
        for block in chosen_blocks(smaller, config.blocks):
            own = [group for group in groups if group.block == block]
            for part in [own] if config.scope == "global" else [[group] for group in own]:
                share = _share_now(config, part, before, place)
                gone = lowest_scores([scores[group.name] for group in part], PruneConfig(share, structured=True))
                removed |= {group.name: channels for group, channels in zip(part, gone)}
        smaller = fine_tune(without_channels(smaller, groups, removed), place)
    return smaller, removal_report(config, detector, smaller, before)


def taylor_scores(
    detector: Any, groups: tuple[ChannelGroup, ...], batches: Iterable[Batch], seed: int = 0, normalized: bool = True
) -> dict[str, Tensor]:
    """`[channels]` by group. Normalization works as when detecting; the detector is left as it was.

    Raises:
        ValueError: no batch.
    """
    sums: dict[str, Tensor] = {}
    count = 0
    with _measuring(detector), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for batch in batches:
            for name, products in _products(detector, groups, batch).items():
                sums[name] = sums.get(name, torch.zeros(())) + products.abs().sum(dim=0).cpu()
            count += len(batch)
    if not count:
        raise ValueError("no batch to measure on")
    scores = {group.name: sums.get(group.name, torch.zeros(group.channels)) / count for group in groups}
    if not normalized:
        return scores
    return {name: score / score.norm().clamp_min(1e-30) for name, score in scores.items()}


def _products(detector: Any, groups: tuple[ChannelGroup, ...], batch: Batch) -> dict[str, Tensor]:
    """By group, `[images, channels]` the mean over positions of activation times gradient, added over its layers.

    A layer on regions has many activations an image; they are counted as positions of the whole batch.
    """
    seen: dict[str, Tensor] = {}
    handles = []
    watched = {group.name: activations_of(detector, group) for group in groups}
    for layer in {layer for layers in watched.values() for layer in layers}:

        def keep(module: nn.Module, inputs: Any, output: Tensor, layer: str = layer) -> Tensor:
            if output.requires_grad:
                output.retain_grad()
                seen.setdefault(layer, output)
            return output.clone() if output.requires_grad else output  # an activation in place must not change it

        handles.append(detector.get_submodule(layer).register_forward_hook(keep))
    try:
        detector.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = detector.criterion(detector(batch), batch.targets)
        torch.stack(list(losses.values())).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
        detector.zero_grad(set_to_none=True)
    found = {}
    for group in groups:
        parts = [_by_image(seen[layer], len(batch)) for layer in watched[group.name] if layer in seen]
        if parts:
            found[group.name] = torch.stack(parts).sum(dim=0)
    return found


def _by_image(activation: Tensor, images: int) -> Tensor:
    """`[images, channels]` the mean over positions of activation times gradient; regions are not told apart."""
    assert activation.grad is not None
    product = (activation * activation.grad).detach().float()
    product = product.flatten(2).mean(dim=2) if product.ndim > 2 else product  # [images or regions, channels]
    if len(product) == images:
        return product * images  # the loss is a mean over images
    return product.mean(dim=0, keepdim=True).expand(images, -1)


def activations_of(detector: Any, group: ChannelGroup) -> list[str]:
    """The layers whose outputs are the group's feature maps: each convolution's normalization, or itself without one.

    A depthwise convolution that follows only passes a channel on and is left out. The maps before a ReLU say the same
    as those after it, since the product is zero where it is shut.
    """
    names = [member.layer for member in group.outputs()]
    found = []
    for place, name in enumerate(names):
        layer = detector.get_submodule(name)
        if isinstance(layer, nn.Conv2d | nn.Linear) and not is_depthwise(layer):
            after = next(iter(names[place + 1 :]), None)
            followed = after is not None and isinstance(
                detector.get_submodule(after), nn.BatchNorm2d | FrozenBatchNorm2d
            )
            found.append(after if followed and after is not None else name)
    return found


def _share_now(config: TaylorConfig, now: list[ChannelGroup], before: tuple[ChannelGroup, ...], place: int) -> float:
    """What share of these groups' channels goes in this round, so that the last one reaches all of it."""
    names = {group.name for group in now}
    total, left = sum(group.channels for group in before if group.name in names), sum(group.channels for group in now)
    gone = round(config.sparsity * total * (place + 1) / config.rounds)
    return max(0, min(gone, total - len(now)) - (total - left)) / max(left, 1)


@contextmanager
def _measuring(detector: Any) -> Iterator[None]:
    """Regions are sampled as in training, but no statistics change and every parameter has a gradient."""
    modes = {module: module.training for module in detector.modules()}
    frozen = [parameter for parameter in detector.parameters() if not parameter.requires_grad]
    detector.train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter in frozen:
            parameter.requires_grad_(False)
