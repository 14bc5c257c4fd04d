"""Published weights of Faster R-CNN R50-FPN: torchvision's state dicts, and Detectron2's model-zoo pickles.

A pickle is a program. Detectron2's files are read by an unpickler that knows numpy arrays and plain containers and
refuses, by name, whatever else a file asks for; nothing of a file is run.
"""

from __future__ import annotations

import codecs
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinydet.backbones import ResNetConfig
from tinydet.detectors.anchors import FPN_ANCHORS
from tinydet.detectors.faster_rcnn_fpn import FasterRCNNFPNConfig
from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing

DETECTRON2_PREPROCESSING = Preprocessing(
    shorter_side=800,
    longer_side=1333,
    channels="bgr",
    mean=(103.530, 116.280, 123.675),
    std=(1.0, 1.0, 1.0),
    size_divisor=32,
)


def torchvision_config(classes: tuple[str, ...]) -> FasterRCNNFPNConfig:
    """The network that torchvision's `fasterrcnn_resnet50_fpn` weights compute."""
    return FasterRCNNFPNConfig(classes)


def detectron2_config(classes: tuple[str, ...]) -> FasterRCNNFPNConfig:
    """The network that Detectron2's `faster_rcnn_R_50_FPN` weights compute."""
    base = FasterRCNNFPNConfig(classes)
    return replace(
        base,
        backbone=ResNetConfig(50, normalization="frozen", stride_in_first=True),
        preprocessing=DETECTRON2_PREPROCESSING,
        proposals=replace(base.proposals, anchors=replace(FPN_ANCHORS, rounded=False), smallest_side=0.0),
        regions=replace(base.regions, box_beta=0.0),
        samples_per_bin=0,
        half_pixel=True,
    )


def read_detectron2(path: Path) -> dict[str, Tensor]:
    """A model-zoo `.pkl` under this package's names, background first.

    Raises:
        InputError: the file is not such a pickle, or asks for anything but arrays and plain containers.
    """
    return from_detectron2({name: torch.from_numpy(array) for name, array in _unpickled_arrays(path).items()})


def from_detectron2(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detectron2's names and class order to this package's; what has no place here is left out."""
    renamed = {}
    for name, value in weights.items():
        new = _detectron2_name(name)
        if new is not None:
            renamed[new] = value.roll(1, dims=0) if ".class_scores." in new else value  # there, background is last
    return renamed


def from_torchvision(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names and layout of `fasterrcnn_resnet50_fpn` to this package's, without box offsets of the background."""
    renamed = {}
    for name, value in weights.items():
        new = _torchvision_name(name)
        if new is not None:
            renamed[new] = value[4:] if ".box_deltas." in new else value
    return renamed


_HEADS = {
    "box_head.fc6": "heads.trunk.fc6",
    "box_head.fc7": "heads.trunk.fc7",
    "box_head.fc1": "heads.trunk.fc6",
    "box_head.fc2": "heads.trunk.fc7",
    "box_predictor.cls_score": "heads.class_scores",
    "box_predictor.bbox_pred": "heads.box_deltas",
}


def _torchvision_name(name: str) -> str | None:
    part, _, rest = name.partition(".")
    if part == "backbone":
        for kind in ("inner_blocks", "layer_blocks"):  # before torchvision 0.13 the convolution had no index of its own
            tokens = rest.split(".")
            if len(tokens) == 4 and tokens[1] == kind:
                return f"backbone.fpn.{kind}.{tokens[2]}.0.{tokens[3]}"
        return name if not name.endswith("num_batches_tracked") else None
    if part == "rpn":
        rest = rest.replace("head.conv.weight", "head.conv.0.0.weight").replace("head.conv.bias", "head.conv.0.0.bias")
        return f"proposals.{rest}" if rest.startswith("head.") else None
    if part == "roi_heads":
        layer, _, kind = rest.rpartition(".")
        return f"{_HEADS[layer]}.{kind}" if layer in _HEADS else None
    return None


def _detectron2_name(name: str) -> str | None:
    layer, _, kind = name.rpartition(".")
    if layer.startswith("backbone.bottom_up."):
        return _detectron2_body(layer.removeprefix("backbone.bottom_up."), kind)
    if layer.startswith("backbone.fpn_lateral"):
        return f"backbone.fpn.inner_blocks.{int(layer[-1]) - 2}.0.{kind}"
    if layer.startswith("backbone.fpn_output"):
        return f"backbone.fpn.layer_blocks.{int(layer[-1]) - 2}.0.{kind}"
    proposal_layers = {"conv": "conv.0.0", "objectness_logits": "cls_logits", "anchor_deltas": "bbox_pred"}
    own = layer.removeprefix("proposal_generator.rpn_head.")
    if own != layer and own in proposal_layers:
        return f"proposals.head.{proposal_layers[own]}.{kind}"
    own = layer.removeprefix("roi_heads.")
    return f"{_HEADS[own]}.{kind}" if own != layer and own in _HEADS else None


def _detectron2_body(layer: str, kind: str) -> str | None:
    """`stem.conv1[.norm]` and `res<2..5>.<block>.<conv1..3 or shortcut>[.norm]`."""
    is_norm = layer.endswith(".norm")
    tokens = layer.removesuffix(".norm").split(".")
    if tokens == ["stem", "conv1"]:
        return f"backbone.body.{'bn1' if is_norm else 'conv1'}.{kind}"
    if len(tokens) != 3 or not tokens[0].startswith("res"):
        return None
    stage, block, convolution = tokens
    if convolution == "shortcut":
        own = f"downsample.{1 if is_norm else 0}"
    else:
        own = convolution.replace("conv", "bn") if is_norm else convolution
    return f"backbone.body.layer{int(stage[3:]) - 1}.{block}.{own}.{kind}"


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        admitted = _ADMITTED.get((module.replace("numpy._core", "numpy.core"), name))
        if admitted is None:
            raise pickle.UnpicklingError(f"asks for {module}.{name}; only numpy arrays and plain containers are read")
        return admitted


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """What pickles of bytes made by Python 2 call; other codecs could unpack to any size."""
    if encoding.lower() not in {"latin1", "latin-1", "iso-8859-1"}:
        raise pickle.UnpicklingError(f"asks for the codec {encoding!r}")
    return codecs.encode(text, "latin1")


def _empty_array(_subtype: Any, _shape: Any, _dtype: Any) -> np.ndarray[Any, Any]:
    return np.ndarray((0,), "b")


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): lambda dtype, content=b"": np.frombuffer(content, dtype)[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode_latin1,
}


def _unpickled_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    try:
        with open(path, "rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except Exception as error:  # a damaged or hostile pickle may fail in any way
        raise InputError(f"{path}: not a Detectron2 model file: {error}") from error
    model = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise InputError(f"{path}: expected a dictionary of weights, found {type(content).__name__}")
    arrays = {
        str(name): value for name, value in model.items() if isinstance(value, np.ndarray) and value.dtype.kind in "fiu"
    }
    if not arrays:
        raise InputError(f"{path}: holds no weights")
    return {name: np.ascontiguousarray(value) for name, value in arrays.items()}
