"""Quantization-aware fine-tuning: training on with weights and activations rounded as int8 will round them.

    step = QuantizationAwareStep(DetectionStep(detector), weight_bits=7)

It wraps any step, a mimic's as well, and goes through the one training loop. The checkpoint that is saved has the
unrounded weights; quantizing it rounds them as they were rounded here. Normalization keeps its statistics, since the
network that is exported has them folded into its weights; a scale for each channel makes rounding before and after that
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.ops import FrozenBatchNorm2d

from tinydet.data.batch import Batch
from tinydet.int8.layers import WeightBits
from tinydet.prune.fine_tuning import MaskedStep
from tinydet.prune.layers import WeightedLayer, weighted_layers
from tinydet.sharing import SharedStep
from tinydet.training.steps import describe_step
from tinydet.training.validation import evaluating

LARGEST = {7: 64, 8: 127}
"""The largest weight code; the least is its negative."""
_LEVELS = 255
_IN, _OUT = 0, 1


def fake_quantized_weight(weight: Tensor, weight_bits: WeightBits) -> Tensor:
    """A weight rounded as the file will hold it: symmetric, a scale for each output channel (Jacob et al. 2018, 3).

    The gradient passes straight through. Zeros stay zeros.
    """
    largest = weight.detach().flatten(1).abs().amax(dim=1)
    scale = (largest / LARGEST[weight_bits]).clamp_min(torch.finfo(torch.float32).tiny)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -LARGEST[weight_bits], LARGEST[weight_bits])


def fake_quantized_activation(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """An activation rounded to uint8 in a range, which is widened to hold zero; beyond it there is no gradient."""
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = ((high - low) / _LEVELS).clamp_min(1e-12)
    zero = (-low / scale).round().clamp(0, _LEVELS).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, _LEVELS)


class QuantizationAwareStep(nn.Module):
    """Another step, in which the detector's layers compute as int8 will.

    Args:
        kept_in_float: names of layers that will not be quantized.
        momentum: of the moving averages of each activation's lowest and highest value.
    """

    def __init__(
        self, step: Any, weight_bits: WeightBits = 7, kept_in_float: tuple[str, ...] = (), momentum: float = 0.05
    ) -> None:
        super().__init__()
        self.detector: Any
        self._step, self.weight_bits, self.momentum = (step,), weight_bits, momentum
        for name, part in step.named_children():  # its parts are this module's own, by the same names
            self.add_module(name, part)
        self.config = {"step": describe_step(step), "weight_bits": weight_bits, "kept_in_float": list(kept_in_float)}
        self._layers = tuple(name for name in layers_of(self.detector) if name not in kept_in_float)
        self.ranges = _Ranges(len(self._layers))
        self._ends: dict[str, str] | None = None

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The step's losses with rounded weights and activations."""
        if self._ends is None:
            self._ends = _output_ends(self.detector, self._layers, batch)
        for part in self.detector.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()
        layers: dict[str, Any] = {name: self.detector.get_submodule(name) for name in self._layers}
        weights = {
            f"detector.{name}.weight": fake_quantized_weight(layer.weight, self.weight_bits)
            for name, layer in layers.items()
        }
        with self._rounding(layers, self._ends):
            return functional_call(self._step[0], weights, (batch,))

    def after_update(self, done: int) -> None:
        after_update = getattr(self._step[0], "after_update", None)
        if after_update:
            after_update(done)

    @contextmanager
    def _rounding(self, layers: dict[str, nn.Module], ends: dict[str, str]) -> Iterator[None]:
        """Within, each layer's input is rounded, and what comes out where no later layer's input is the same."""
        hooks = []
        for place, (name, layer) in enumerate(layers.items()):
            hooks.append(layer.register_forward_pre_hook(self._input_hook(place)))
            if name in ends:
                end = self.detector.get_submodule(ends[name])
                hooks.append(end.register_forward_hook(self._output_hook(place)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _input_hook(self, place: int) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        return lambda _, inputs: (self._rounded(place, _IN, inputs[0]), *inputs[1:])

    def _output_hook(self, place: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        return lambda _, __, output: self._rounded(place, _OUT, output)

    def _rounded(self, place: int, side: int, x: Tensor) -> Tensor:
        if not x.numel():
            return x
        ranges = self.ranges.values
        if self.detector.training:
            with torch.no_grad():
                found = torch.stack(torch.aminmax(x.detach().float()))
                moved = ranges[place, side] + self.momentum * (found - ranges[place, side])
                ranges[place, side] = torch.where(moved.isnan(), found, moved)
        low, high = ranges[place, side].clone().unbind()
        return fake_quantized_activation(x.float(), low, high)


class _Ranges(nn.Module):
    """Moving averages; a module of its own so that whatever wraps the step saves it as well.

    Attributes:
        values: `[layers, input or output, lowest or highest]`, NaN until the first batch.
    """

    values: Tensor

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.full((layers, 2, 2), torch.nan))


def aware_step(
    step: Any, weight_bits: WeightBits = 7, kept_in_float: tuple[str, ...] = (), shared: bool = False
) -> nn.Module:
    """A quantization-aware step that also keeps the zeros of a pruned detector, where it has any.

    Args:
        shared: the layers have few values each (`tinydet.sharing`), which are trained instead of single weights.
    """
    aware: nn.Module = QuantizationAwareStep(step, weight_bits, kept_in_float)
    if shared:
        aware = SharedStep(aware)
    pruned = any((layer.weight == 0).any() for layer in layers_of(step.detector).values())
    return MaskedStep(aware) if pruned else aware


def layers_of(detector: Any) -> dict[str, WeightedLayer]:
    """The convolutions and matrix products of a detector, by name."""
    return {name: layer for block in detector.blocks() for name, layer in weighted_layers(detector, block).items()}


@torch.no_grad()
def _output_ends(detector: Any, layers: tuple[str, ...], batch: Batch) -> dict[str, str]:
    """For each layer, the module whose output is rounded: the layer or the normalization right after it.

    Layers whose output goes into a ReLU have none: that ReLU's output is the input of what comes next. It is found by
    running the detector once.
    """
    names = {module: name for name, module in detector.named_modules()}
    made_by: list[tuple[Tensor, int, str]] = []
    ends = {name: name for name in layers}

    def maker(x: Any) -> str | None:
        # A residual block adds to the tensor in place, which its version tells.
        return next((name for output, version, name in made_by[::-1] if output is x and x._version == version), None)

    def after_layer(module: nn.Module, _: Any, output: Tensor) -> None:
        made_by.append((output, output._version, names[module]))

    def after_normalization(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if (name := maker(inputs[0])) is not None:
            ends[name] = names[module]
            made_by.append((output, output._version, name))

    def before_activation(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if (name := maker(inputs[0])) is not None:
            ends.pop(name, None)

    hooks = []
    for name, module in detector.named_modules():
        if name in ends:
            hooks.append(module.register_forward_hook(after_layer))
        elif isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            hooks.append(module.register_forward_hook(after_normalization))
        elif isinstance(module, nn.ReLU | nn.ReLU6):
            hooks.append(module.register_forward_pre_hook(before_activation))
    try:
        with evaluating(detector):
            detector(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return ends
