"""The layers that are pruned and shared, block by block, and how sparse they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from tinydet.detectors import RFCN, SSD
from tinydet.detectors.two_stage import TwoStageDetector
from tinydet.errors import InputError

Block = Literal["backbone", "proposals", "heads"]
Blocks = tuple[Block, ...] | Literal["all"]
"""Parts of a detector, as its `blocks()` names them. A one-stage detector has no `proposals`."""

WeightedLayer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class LayerSparsity:
    """Attributes:
    weights: entries of the layer's weight; biases and normalization are neither counted nor pruned.
    channels, zero_channels: along the layer's output; a zero channel has no weight that is not zero.
    """

    layer: str
    block: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    channels: int
    zero_channels: int

    @property
    def sparsity(self) -> float:
        return self.zeros / self.weights


def chosen_blocks(detector: Any, blocks: Blocks) -> tuple[str, ...]:
    """The names of the detector's blocks that `blocks` stands for.

    Raises:
        InputError: the detector has no such block.
    """
    there = tuple(detector.blocks())
    if blocks == "all":
        return there
    if unknown := [block for block in blocks if block not in there]:
        raise InputError(
            f"block {unknown[0]!r}: this {type(detector).__name__} has the blocks {', '.join(there)}; name one or more "
            "of them, or all"
        )
    return tuple(block for block in there if block in blocks)


def weighted_layers(detector: Any, block: str) -> dict[str, WeightedLayer]:
    """The convolutions and fully connected layers of a block, by their names in the detector."""
    names = {id(module): name for name, module in detector.named_modules()}
    return {
        names[id(layer)]: layer
        for layer in detector.blocks()[block].modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }


def output_layers(detector: Any) -> dict[str, WeightedLayer]:
    """The layers whose outputs are classes and boxes: each of their channels has a meaning and must stay."""
    match detector:
        case TwoStageDetector():
            rpn, heads = detector.proposals.head, detector.heads
            ends = ("class_maps", "box_maps") if isinstance(detector, RFCN) else ("class_scores", "box_deltas")
            found = [rpn.cls_logits, rpn.bbox_pred, *(heads.get_submodule(name) for name in ends)]
        case SSD():
            predictors = detector.heads.predictors
            found = [layers[-1] for layers in (*predictors.class_scores, *predictors.box_deltas)]
        case _:
            raise TypeError(f"a {type(detector).__name__} cannot be pruned by channels")
    names = {id(module): name for name, module in detector.named_modules()}
    return {names[id(layer)]: layer for layer in found}


def layer_sparsities(detector: Any) -> tuple[LayerSparsity, ...]:
    """Every such layer of the detector, pruned or not."""
    return tuple(_rows(detector))


def sparsity_of(rows: tuple[LayerSparsity, ...]) -> float:
    """The share of zeros in all weights of these layers."""
    return sum(row.zeros for row in rows) / max(1, sum(row.weights for row in rows))


def _rows(detector: Any) -> Iterator[LayerSparsity]:
    for block in detector.blocks():
        for name, layer in weighted_layers(detector, block).items():
            zero = layer.weight.detach() == 0
            yield LayerSparsity(
                name,
                block,
                tuple(zero.shape),
                zero.numel(),
                int(zero.sum()),
                len(zero),
                int(zero.flatten(1).all(dim=1).sum()),
            )
