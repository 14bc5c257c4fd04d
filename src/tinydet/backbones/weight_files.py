"""Where weights come from: a file on disk, a tinydet checkpoint, a URL, or torchvision's ImageNet weights."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import sys
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urldefrag, urlsplit

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torchvision.models import ResNet18_Weights, ResNet50_Weights, VGG16_BN_Weights, VGG16_Weights

from tinydet.backbones import BackboneConfig, MobileNetConfig, ResNetConfig, VGGConfig
from tinydet.errors import InputError, TinydetError
from tinydet.files import read_json
from tinydet.preprocessing import IMAGENET_MEAN, IMAGENET_STD, ChannelOrder

IMAGENET = "imagenet"
"""In place of a file: torchvision's ImageNet weights of the network, downloaded once."""

METADATA_KEY = "tinydet"


@dataclass(frozen=True)
class InputScaling:
    """What the weights were trained on: `channels` less `mean`, over `std`, in units of 0..255."""

    channels: ChannelOrder
    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET_SCALING = InputScaling("rgb", IMAGENET_MEAN, IMAGENET_STD)
PLUS_MINUS_ONE = InputScaling("rgb", (127.5,) * 3, (127.5,) * 3)
"""[-1, 1], as the published MobileNets take it (Howard et al. 2017, TensorFlow's weights)."""


@dataclass(frozen=True)
class WeightFile:
    """Tensors by the file's own names.

    Attributes:
        source: for messages.
        scaling: what the file says of its input; None where it says nothing.
    """

    source: str
    tensors: Mapping[str, Tensor]
    scaling: InputScaling | None = None


def open_weights(source: str | Path, backbone: BackboneConfig) -> WeightFile:
    """Weights for a backbone.

    Args:
        source: a `.safetensors` file; a torchvision state dict; a checkpoint's folder; `imagenet`; or a URL, whose file
            is kept in torch's cache: `https://host/file.pth#sha256=HEX`, the sum being checked where it is given.

    Raises:
        InputError: there is no such file, it is damaged or not of weights, or no ImageNet weights are published.
        TinydetError: the download fails, or its checksum is wrong.
    """
    text = str(source)
    if text == IMAGENET:
        url = imagenet_url(backbone)
        return WeightFile(url, _read(_downloaded(url, _sha256_in_name(url))).tensors, IMAGENET_SCALING)
    if urlsplit(text).scheme in ("http", "https"):
        return _read(fetched(text))
    return _read(Path(source))


def fetched(url: str) -> Path:
    """The file of `https://host/file#sha256=HEX` in torch's cache, downloaded if it is not there.

    Raises:
        InputError: what stands after # is no checksum.
        TinydetError: the download fails, or its checksum is wrong.
    """
    address, fragment = urldefrag(url)
    return _downloaded(address, _sha256_of_fragment(fragment, url))


def imagenet_url(backbone: BackboneConfig) -> str:
    """Of torchvision's weights for this network.

    Raises:
        InputError: torchvision has none.
    """
    match backbone:
        case ResNetConfig(depth=18):
            return ResNet18_Weights.IMAGENET1K_V1.url
        case ResNetConfig():
            return ResNet50_Weights.IMAGENET1K_V1.url
        case VGGConfig(normalization="none"):
            return VGG16_Weights.IMAGENET1K_V1.url
        case VGGConfig():
            return VGG16_BN_Weights.IMAGENET1K_V1.url
        case MobileNetConfig():
            raise InputError(
                f"{IMAGENET}: torchvision has no weights for MobileNetV1; give a file with the names of TensorFlow's "
                "weights (conv1, conv_dw_1, conv_pw_1, ...) as .safetensors"
            )


def _read(path: Path) -> WeightFile:
    if path.is_dir():
        return _read_checkpoint(path)
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; weights are a .safetensors file, a torchvision .pth file, a checkpoint's folder, "
            f"a URL, or the word {IMAGENET}"
        )
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_state_dict(path)


def _read_checkpoint(folder: Path) -> WeightFile:
    for candidate in (folder, folder / "best", folder / "last"):
        if (candidate / "model.safetensors").is_file():
            described = read_json(candidate / "config.json")
            weights = _read_safetensors(candidate / "model.safetensors")
            return replace(weights, scaling=_scaling(described, candidate / "config.json", "detector", "preprocessing"))
    raise InputError(f"{folder}: not a checkpoint: neither it nor its best or last has a model.safetensors")


def _read_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: truncated, or not a safetensors file: {error}") from error
    if METADATA_KEY not in metadata:
        return WeightFile(str(path), tensors)
    try:
        described = json.loads(metadata[METADATA_KEY])
    except ValueError as error:
        raise InputError(f"{path}: the header's {METADATA_KEY!r} is not JSON: {error}") from error
    return WeightFile(str(path), tensors, _scaling(described, path, "preprocessing"))


def _scaling(described: Any, path: Path, *fields: str) -> InputScaling:
    try:
        for field in fields:
            described = described[field]
        return InputScaling(described["channels"], tuple(described["mean"]), tuple(described["std"]))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: it does not say {'.'.join(fields)}.channels, mean and std: {error!r}") from error


def _read_state_dict(path: Path) -> WeightFile:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a file of plain tensors (a torchvision state dict): {error}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    tensors = {str(name).removeprefix("module."): value for name, value in content.items()}
    return WeightFile(str(path), tensors)


def _downloaded(url: str, sha256: str | None) -> Path:
    """The file in torch's cache; fetched if it is not there."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / PurePosixPath(urlsplit(url).path).name
    if path.is_file() and (sha256 is None or _sha256_matches(path, sha256)):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), sha256, progress=sys.stderr.isatty())
    except (urllib.error.URLError, HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise TinydetError(f"{url}: cannot be fetched: {reason}; fetch it elsewhere, then give its path") from error
    except RuntimeError as error:  # torch's own: the checksum
        raise TinydetError(f"{url}: {error}; the file was thrown away") from error
    return path


def _sha256_matches(path: Path, prefix: str) -> bool:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(prefix)


def _sha256_in_name(url: str) -> str | None:
    """torchvision's files end in the first eight digits: `resnet18-f37072fd.pth`."""
    found = re.search(r"-([0-9a-f]{8,})\.", PurePosixPath(urlsplit(url).path).name)
    return found[1] if found else None


def _sha256_of_fragment(fragment: str, url: str) -> str | None:
    if not fragment:
        return None
    found = re.fullmatch(r"sha256=([0-9a-fA-F]{8,64})", fragment)
    if not found:
        raise InputError(f"{url}: after # expected sha256=HEX, found {fragment!r}")
    return found[1].lower()
