"""What layers read and give at sampled positions: inputs in a pruned network, outputs in the one it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

from tinydet.data.batch import Batch
from tinydet.detectors.two_stage import TwoStageDetector
from tinydet.prune.channels import ChannelGroup

_REGIONS = 64  # of each image, for the layers that work on regions


@dataclass(frozen=True, eq=False)
class Samples:
    """Attributes:
    inputs: `[N, K]`, in the order of the layer's flattened weight `[O, K]`.
    outputs: `[N, O]` what the layer should give, without its bias.
    """

    inputs: Tensor
    outputs: Tensor

    def error(self, weight: Tensor) -> float:
        """Root of the squared error with this `[O, K]` weight, over that of giving nothing."""
        outputs = self.outputs.double()
        left = outputs - self.inputs.double() @ weight.detach().double().T
        return float((left.square().sum() / outputs.square().sum().clamp_min(1e-30)).sqrt())


class Recorder:
    """Runs both networks on the same images and regions, and looks at the same positions in both.

    It keeps account of which of the unpruned network's channels are still there.
    """

    def __init__(self, original: Any, batches: Sequence[Batch], samples: int, seed: int) -> None:
        self.original, self.batches, self.wanted, self.seed = original, list(batches), samples, seed
        if not self.batches:
            raise ValueError("no batch to look at")
        self._kept: dict[str, Tensor] = {}
        with torch.no_grad():
            self._regions = [_regions(original, batch) for batch in self.batches]

    def removed(self, group: ChannelGroup, gone: Tensor) -> None:
        """Channels of a group are no longer there."""
        for member in group.outputs():
            before = self._kept.get(member.layer)
            before = torch.arange(group.channels) if before is None else before
            self._kept[member.layer] = before[~gone]

    @torch.no_grad()
    def samples(self, smaller: Any, name: str) -> Samples:
        """Of one layer."""
        layer = smaller.get_submodule(name)
        wanted = max(self.wanted, 2 * layer.weight[0].numel())
        each = -(-wanted // len(self.batches))
        inputs, outputs = [], []
        for place in range(len(self.batches)):
            now = self._record(smaller, name, place, each, inputs_too=True)
            then = self._record(self.original, name, place, each, inputs_too=False)
            kept = self._kept.get(name, slice(None))
            target = then.outputs[:, kept]
            if then.shortcut is not None and now.shortcut is not None:
                target = target + (then.shortcut[:, kept] - now.shortcut) * _before_normalization(smaller, name)
            inputs.append(now.inputs)
            outputs.append(target if layer.bias is None else target - layer.bias)
        return Samples(torch.cat(inputs), torch.cat(outputs))

    def _record(self, network: Any, name: str, place: int, each: int, inputs_too: bool) -> _Record:
        record = _Record(each, np.random.default_rng([self.seed, place]), inputs_too)
        with record.watching(network, name):
            _run(network, self.batches[place], self._regions[place])
        return record


class _Record:
    """What one layer read and gave in one pass; a layer that ran several times is sampled each time."""

    def __init__(self, each: int, random: np.random.Generator, inputs_too: bool) -> None:
        self.each, self.random, self.inputs_too = each, random, inputs_too
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._shortcuts: list[Tensor] = []
        self._positions: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        return torch.cat(self._inputs)

    @property
    def outputs(self) -> Tensor:
        return torch.cat(self._outputs)

    @property
    def shortcut(self) -> Tensor | None:
        return torch.cat(self._shortcuts) if self._shortcuts else None

    @contextmanager
    def watching(self, network: Any, name: str) -> Iterator[None]:
        handles = [network.get_submodule(name).register_forward_hook(self._see)]
        block = _block_ending_in(network, name)
        if block is not None:
            handles.append(block.register_forward_hook(self._see_block))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _see(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        count = output.shape[0] * output[0, 0].numel()
        chosen = self.random.permutation(count)[: self.each]
        self._positions = torch.from_numpy(np.sort(chosen))
        self._outputs.append(_at(output, self._positions))
        if self.inputs_too:
            self._inputs.append(_patches(layer, inputs[0], output, self._positions))

    def _see_block(self, block: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert self._positions is not None
        shortcut = inputs[0] if block.downsample is None else block.downsample(inputs[0])
        self._shortcuts.append(_at(shortcut, self._positions))


def _run(network: Any, batch: Batch, regions: list[Tensor] | None) -> None:
    if regions is None:
        network(batch)
        return
    features = network.quantized(network.features(batch))
    network.proposals(features)
    network.predict_regions(features, regions)


def _regions(network: Any, batch: Batch) -> list[Tensor] | None:
    """The unpruned network's proposals, for both networks; None for a one-stage detector."""
    if not isinstance(network, TwoStageDetector):
        return None
    return network.regions_of_interest(batch, _REGIONS).boxes_xyxy


def _at(output: Tensor, positions: Tensor) -> Tensor:
    """`[N, C]` of `[B, C, H, W]` or `[B, C]`, positions counted over images, rows and columns."""
    flat = output.permute(0, 2, 3, 1).flatten(0, 2) if output.ndim == 4 else output
    return flat[positions].clone()


def _patches(layer: nn.Module, image: Tensor, output: Tensor, positions: Tensor) -> Tensor:
    """`[N, C * kh * kw]` what a convolution reads at these positions of its output; a linear layer's rows."""
    if not isinstance(layer, nn.Conv2d):
        return image[positions].clone()
    padding, stride, dilation, kernel = (
        [int(side) for side in sides] for sides in (layer.padding, layer.stride, layer.dilation, layer.kernel_size)
    )
    padded = F.pad(image, (padding[1], padding[1], padding[0], padding[0]))
    height, width = output.shape[-2:]
    images, cell = positions // (height * width), positions % (height * width)
    rows = (cell // width * stride[0])[:, None] + torch.arange(kernel[0]) * dilation[0]  # [N, kh]
    columns = (cell % width * stride[1])[:, None] + torch.arange(kernel[1]) * dilation[1]  # [N, kw]
    found = padded[images[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [N, kh, kw, C]
    return found.permute(0, 3, 1, 2).flatten(1)


def _block_ending_in(network: Any, name: str) -> nn.Module | None:
    """The residual block whose branch ends with this layer."""
    parent, _, last = name.rpartition(".")
    block = network.get_submodule(parent)
    ends = {BasicBlock: "conv2", Bottleneck: "conv3"}
    return block if ends.get(type(block)) == last else None


def _before_normalization(network: Any, name: str) -> Tensor:
    """`[C]` what an amount after a residual branch's last normalization is before it; 0 where that would be huge."""
    parent, _, last = name.rpartition(".")
    norm = network.get_submodule(f"{parent}.{last.replace('conv', 'bn')}")
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return torch.where(scale.abs() > 1e-3, 1 / scale, torch.zeros_like(scale))
