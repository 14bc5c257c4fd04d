"""Parts of a torch detector as ONNX graphs: convolutions and what stands between them, without any control flow."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from tinydet.export.graph import OPSET

_LARGEST_CODEBOOK = 256
_DYNAMIC = torch.export.Dim.DYNAMIC


def for_export(module: nn.Module, example: Tensor) -> nn.Module:
    """A copy in evaluation mode whose normalisations are in the form that exports best.

    Trained statistics become part of the convolution before them, except where its weights are few shared values:
    folding would make them many. There a scale and a shift stay in the graph; an engine folds them when it loads it.
    """
    module = copy.deepcopy(module).eval().cpu().float().requires_grad_(False)
    for parent_name, name, norm in _normalizations(module):
        setattr(module.get_submodule(parent_name), name, _trained_form(norm))
    shared = _after_shared_weights(module, example)
    for parent_name, name, norm in _normalizations(module):
        if norm in shared:
            setattr(module.get_submodule(parent_name), name, _frozen_form(norm))
    return module


def export_module(module: nn.Module, example: Tensor, dynamic_axes: tuple[int, ...]) -> onnx.ModelProto:
    """The graph of a module of one input, with folded constants."""
    shapes = ({axis: _DYNAMIC for axis in dynamic_axes},)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            for_export(module, example),
            (example,),
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    found = {opset.domain: opset.version for opset in model.opset_import}
    assert found.get("", OPSET) == OPSET, found
    return model


def _normalizations(module: nn.Module) -> list[tuple[str, str, nn.Module]]:
    found = [
        (name, part) for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d | FrozenBatchNorm2d)
    ]
    return [(*_split(name), part) for name, part in found]


def _split(name: str) -> tuple[str, str]:
    parent, _, last = name.rpartition(".")
    return parent, last


def _trained_form(norm: Any) -> nn.BatchNorm2d:
    if isinstance(norm, nn.BatchNorm2d):
        return norm
    trained = nn.BatchNorm2d(len(norm.weight), eps=norm.eps).eval().requires_grad_(False)
    trained.load_state_dict(norm.state_dict(), strict=False)
    return trained


def _frozen_form(norm: Any) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
    frozen.load_state_dict(norm.state_dict())
    return frozen


def _after_shared_weights(module: nn.Module, example: Tensor) -> set[nn.Module]:
    """Normalisations that directly follow a convolution with shared weights, found by running the module."""
    made_by_shared: list[Tensor] = []
    found: set[nn.Module] = set()

    def after_convolution(part: Any, _: Any, output: Tensor) -> None:
        if has_shared_values(part.weight):
            made_by_shared.append(output)

    def after_normalization(part: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if any(inputs[0] is output for output in made_by_shared):
            found.add(part)

    hooks = []
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            hooks.append(part.register_forward_hook(after_convolution))
        elif isinstance(part, nn.BatchNorm2d):
            hooks.append(part.register_forward_hook(after_normalization))
    with torch.no_grad():
        module(example)
    for hook in hooks:
        hook.remove()
    return found


def has_shared_values(weight: Tensor) -> bool:
    """Whether a tensor holds so few distinct values, zero aside, that a codebook was surely made of it.

    A tensor of under a thousand weights is not worth keeping so.
    """
    kept = weight[weight != 0]
    return kept.numel() > 1024 and len(kept.unique()) <= min(_LARGEST_CODEBOOK, kept.numel() // 4)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about itself, which a user can do nothing about."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
