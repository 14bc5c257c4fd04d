"""Pretrained weights into a detector: its backbone, and what it applies to regions (ResNet's layer4, VGG's fc6, fc7).

Files name their tensors as torchvision does (`conv1.weight`, `layer1.0.conv1.weight`, `features.0.weight`,
`classifier.0.weight`) or, for MobileNetV1, as TensorFlow does (`conv_dw_1.weight`). A detector has the same names under
`backbone.` and `heads.trunk.`; this file knows how the two belong together.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinydet.backbones import BackboneConfig, MobileNetConfig, ResNetConfig, VGGConfig
from tinydet.backbones.weight_files import (
    IMAGENET_SCALING,
    PLUS_MINUS_ONE,
    InputScaling,
    WeightFile,
    open_weights,
)
from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing

log = logging.getLogger("tinydet")

_LUMINANCE = (0.299, 0.587, 0.114)
"""How Pillow makes grey of red, green and blue (ITU-R BT.601)."""


@dataclass(frozen=True)
class LoadedWeights:
    """What became of a file's tensors and of the network's.

    Attributes:
        loaded: the file's names.
        missing: the network's, published under this name, that the file lacks; they keep the values they had.
        unused: the file's, for which this network has no place (a classifier; a norm whose convolution is missing).
        wrong_shape: of another shape than the network's, as `name is [..], the network's is [..]`.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    wrong_shape: tuple[str, ...]

    def __str__(self) -> str:
        """The counts, in a line."""
        counts = f"{len(self.loaded)} tensors loaded, {len(self.missing)} missing, {len(self.unused)} unused, "
        return f"{self.source}: {counts}{len(self.wrong_shape)} of another shape"

    def warnings(self) -> list[str]:
        """What keeps the values that it had, by name."""
        found = (("missing", self.missing), ("of another shape", self.wrong_shape))
        return [f"{self.source}: {what}, left as it was: {_listed(names)}" for what, names in found if names]


def load_pretrained(detector: nn.Module, source: str | Path | WeightFile) -> LoadedWeights:
    """Give a detector, or anything else with a `backbone` in its `config`, the weights that fit it.

    The first convolution of a network with one channel takes the sum over red, green and blue; one for BGR takes them
    in that order.

    Raises:
        InputError: nothing fits; the message says what the file has and what the network wants.
    """
    config: Any = detector.config
    backbone: BackboneConfig = config.backbone
    file = source if isinstance(source, WeightFile) else open_weights(source, backbone)
    offered = {_published_name(name, backbone) or name: tensor for name, tensor in file.tensors.items()}
    wanted = {name: key for key in detector.state_dict() if (name := _published_name(key, backbone)) is not None}
    missing = sorted(wanted.keys() - offered.keys())
    offered = _without_norms_of(missing, offered)
    own = detector.state_dict()
    scaling = file.scaling or scaling_of(backbone)

    loaded, wrong_shape = {}, []
    for name, key in wanted.items():
        if name not in offered:
            continue
        tensor = _for_channels(name, offered[name], scaling, config.preprocessing)
        if tensor.shape == own[key].shape:
            loaded[name] = tensor
        else:
            wrong_shape.append(f"{name} is {list(tensor.shape)}, the network's is {list(own[key].shape)}")
    if not any(tensor.ndim > 1 for tensor in loaded.values()):
        raise InputError(_nothing_fits(file, backbone, offered, wanted, wrong_shape))
    with torch.no_grad():
        for name, tensor in loaded.items():
            own[wanted[name]].copy_(tensor)
    result = LoadedWeights(
        file.source,
        tuple(loaded),
        tuple(missing),
        _unused(file, backbone, offered, wanted),
        tuple(wrong_shape),
    )
    for warning in result.warnings():
        log.warning("%s", warning)
    return result


def pretrained_preprocessing(
    wanted: Preprocessing, backbone: BackboneConfig, source: str | Path | WeightFile | None = None
) -> Preprocessing:
    """`wanted` with the mean and deviation that the weights were trained with, in its own order of channels.

    Args:
        source: weights that say so themselves (those of `tinydet pretrain`) are believed; for others it is what was
            published with the network: [-1, 1] for MobileNetV1, ImageNet's means and deviations else.
    """
    file = source if isinstance(source, WeightFile) else open_weights(source, backbone) if source is not None else None
    scaling = (file.scaling if file else None) or scaling_of(backbone)
    return replace(wanted, mean=_reordered(scaling.mean, scaling, wanted), std=_reordered(scaling.std, scaling, wanted))


def scaling_of(backbone: BackboneConfig) -> InputScaling:
    """What the published weights of a network take."""
    return PLUS_MINUS_ONE if isinstance(backbone, MobileNetConfig) else IMAGENET_SCALING


def published_tensors(module: nn.Module, backbone: BackboneConfig) -> dict[str, Tensor]:
    """The tensors of a detector's or classifier's backbone and trunk under their published names."""
    named = {_published_name(key, backbone): tensor for key, tensor in module.state_dict().items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items() if name is not None}


def _published_name(key: str, backbone: BackboneConfig) -> str | None:
    """Of a detector's tensor, or of a file's; None for what is not the backbone's or its trunk's."""
    if _is_counter(key):
        return None
    name = re.sub(r"^(backbone\.body\.|backbone\.|heads\.trunk\.)", "", key)
    match backbone:
        case ResNetConfig():
            return name if re.match(r"(conv1|bn1|layer[1-4])\.", name) else None
        case VGGConfig():
            name = re.sub(r"^fc6\.", "classifier.0.", re.sub(r"^fc7\.", "classifier.3.", name))
            return name if re.match(r"(features\.\d+|classifier\.[03])\.", name) else None
        case MobileNetConfig():
            name = re.sub(r"^(parts\.\d+\.|blocks\.)", "", name)
            return name if re.match(r"conv(1|_dw_\d+|_pw_\d+)(_bn)?\.", name) else None


def _without_norms_of(missing: list[str], offered: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the norms of MobileNet's convolutions that the file lacks: they describe what is not there."""
    orphans = {f"{name.removesuffix('.weight')}_bn" for name in missing}
    return {name: tensor for name, tensor in offered.items() if name.rpartition(".")[0] not in orphans}


def _unused(
    file: WeightFile, backbone: BackboneConfig, offered: Mapping[str, Tensor], wanted: Mapping[str, str]
) -> tuple[str, ...]:
    names = {name: _published_name(name, backbone) or name for name in file.tensors if not _is_counter(name)}
    return tuple(sorted(name for name, own in names.items() if own not in wanted or own not in offered))


def _for_channels(name: str, tensor: Tensor, scaling: InputScaling, wanted: Preprocessing) -> Tensor:
    """The first convolution `[N, C, k, k]` for the detector's channels; any other tensor as it is."""
    if name not in ("conv1.weight", "features.0.weight") or tensor.ndim != 4 or scaling.channels == wanted.channels:
        return tensor
    if scaling.channels == "gray":
        return tensor.expand(-1, 3, -1, -1) / 3 if tensor.shape[1] == 1 else tensor
    if wanted.channels == "gray":
        return tensor.sum(dim=1, keepdim=True)
    return tensor.flip(1)


def _reordered(values: tuple[float, ...], scaling: InputScaling, wanted: Preprocessing) -> tuple[float, ...]:
    if scaling.channels == wanted.channels:
        return values
    if scaling.channels == "gray":
        return values * 3
    if wanted.channels == "gray":
        of_rgb = values if scaling.channels == "rgb" else values[::-1]
        return (sum(share * value for share, value in zip(_LUMINANCE, of_rgb)),)
    return values[::-1]


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _nothing_fits(
    file: WeightFile,
    backbone: BackboneConfig,
    offered: Mapping[str, Tensor],
    wanted: Mapping[str, str],
    wrong_shape: list[str],
) -> str:
    if wrong_shape:
        reason = f"{len(wrong_shape)} tensors are of another shape; the first: {wrong_shape[0]}"
        advice = f"this network's width divisor is {backbone.width_divisor:g}: give weights of that width"
        return f"{file.source}: none of its weights fits: {reason}; {advice} (tinydet pretrain makes them)"
    return (
        f"{file.source}: none of its weights fits: it has {_listed(tuple(offered)) or 'no tensors'}, and this "
        f"{type(backbone).__name__.removesuffix('Config')} wants {_listed(tuple(wanted))}"
    )


def _listed(names: tuple[str, ...], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
