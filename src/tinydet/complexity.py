"""Parameters and multiply-adds of a detector, block by block, at a stated input size.

Counted while the network runs, from the operations that reach PyTorch, so that no layer's kind has to be known: a
convolution (dense, grouped or transposed) and a matrix product count one multiply-add where a weight meets an input.
Everything else (normalisation, activations, pooling, NMS) counts nothing, as in the papers' tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tinydet.data.batch import Batch, Target
from tinydet.detectors.outputs import DetectorOutputs

REST = "rest"


@dataclass(frozen=True)
class BlockComplexity:
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Complexity:
    """Attributes:
    blocks: `backbone`, `proposals`, `heads`, as the detector names them; `rest` is what lies outside all of them.
    input_hw: of the network's input.
    regions: regions of interest for which the second stage is counted; None for one-stage detectors.
    """

    blocks: Mapping[str, BlockComplexity]
    input_hw: tuple[int, int]
    regions: int | None

    @property
    def parameters(self) -> int:
        return sum(block.parameters for block in self.blocks.values())

    @property
    def multiply_adds(self) -> int:
        return sum(block.multiply_adds for block in self.blocks.values())


def measure_complexity(detector: nn.Module, input_hw: tuple[int, int], regions: int = 300) -> Complexity:
    """Count by one forward pass over noise of `input_hw`, on the detector's own device.

    What the second stage does for each region is counted for `regions` regions, however many the pass had; what it does
    once an image (R-FCN's score maps) is counted once.

    Raises:
        ValueError: the input is so small that the pass had fewer than two regions to learn a region's cost from.
    """
    blocks: dict[str, nn.Module] = detector.blocks()  # type: ignore[operator]
    operations = _Operations()
    was_training = detector.training
    detector.eval()
    try:
        with torch.no_grad(), _entering(blocks, operations), operations:
            outputs: DetectorOutputs = detector(_noise_batch(detector, input_hw))
    finally:
        detector.train(was_training)
    seen = None if outputs.regions is None else sum(len(boxes) for boxes in outputs.regions.boxes_xyxy)
    if seen is not None and seen < 2:
        raise ValueError(f"an input of {input_hw} gave {seen} regions; take a larger one")
    counted = {
        name: BlockComplexity(
            parameters,
            sum(op.multiply_adds_for(regions, seen) for op in operations.done if op.block == name),
        )
        for name, parameters in _parameters(detector, blocks).items()
    }
    if counted[REST] == BlockComplexity(0, 0):
        del counted[REST]
    return Complexity(counted, input_hw, regions if seen is not None else None)


@dataclass(frozen=True)
class _Operation:
    """Attributes:
    rows: the leading size of its result: images, regions, or a multiple of one of them.
    """

    block: str
    multiply_adds: int
    rows: int

    def multiply_adds_for(self, regions: int, seen: int | None) -> int:
        """With one image in the batch, a leading size that is a multiple of the regions seen comes from the regions."""
        if seen is None or self.rows % seen:
            return self.multiply_adds
        return self.multiply_adds * regions // seen


@dataclass
class _Operations(TorchDispatchMode):
    """Writes down each operation that has multiply-adds, and the block that was running."""

    done: list[_Operation] = field(default_factory=list)
    block: str = REST

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count_flops = flop_registry.get(func._overloadpacket)
        if count_flops is not None and isinstance(result, Tensor):
            flops = count_flops(*args, **(kwargs or {}), out_val=result)  # PyTorch counts 2 for a multiply-add
            self.done.append(_Operation(self.block, int(flops) // 2, result.shape[0]))
        return result


@contextmanager
def _entering(blocks: Mapping[str, nn.Module], operations: _Operations) -> Iterator[None]:
    """While this holds, `operations` knows which block is running. Blocks do not lie within one another."""

    def enter(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            operations.block = name

        return hook

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        operations.block = REST

    handles = []
    for name, block in blocks.items():
        handles.append(block.register_forward_pre_hook(enter(name)))
        handles.append(block.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _parameters(detector: nn.Module, blocks: Mapping[str, nn.Module]) -> dict[str, int]:
    """By block; a parameter that two blocks share is counted in the first."""
    counted: set[int] = set()
    sizes = {}
    for name, module in [*blocks.items(), (REST, detector)]:
        own = [p for p in module.parameters() if id(p) not in counted]
        counted.update(id(p) for p in own)
        sizes[name] = sum(p.numel() for p in own)
    return sizes


def _noise_batch(detector: nn.Module, input_hw: tuple[int, int]) -> Batch:
    """One image of noise, which gives proposals at many places; a flat image might give one."""
    like = next(detector.parameters())
    channels: int = detector.config.preprocessing.channel_count  # type: ignore[union-attr, assignment]
    generator = torch.Generator().manual_seed(0)
    images = 255 * torch.rand((1, channels, *input_hw), generator=generator)
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    batch = Batch(images.to(like.dtype), (input_hw,), (input_hw,), (nothing,), ("noise",), ("noise",))
    return batch.to(like.device)
