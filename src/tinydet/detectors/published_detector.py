"""A whole published Faster R-CNN R50-FPN to start from: torchvision's or Detectron2's, from a file or by download.

    found = open_detector("coco", config)                 or a path, a URL, the word `detectron2`
    detector = build_detector(published_config(config, found))
    print(load_detector(detector, found))

Whatever the file has in another shape than the network, such as the predictor of other classes, is left as it was, and
is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from tinydet.backbones import BackboneConfig
from tinydet.backbones.pretrained import load_pretrained, pretrained_preprocessing
from tinydet.backbones.weight_files import IMAGENET_SCALING, InputScaling, WeightFile, fetched, open_weights
from tinydet.detectors.faster_rcnn_fpn import FasterRCNNFPNConfig
from tinydet.detectors.published_weights import (
    DETECTRON2_PREPROCESSING,
    detectron2_config,
    from_detectron2,
    from_torchvision,
    read_detectron2,
    torchvision_config,
)
from tinydet.errors import InputError

PUBLISHED = {
    "coco": f"{FasterRCNN_ResNet50_FPN_Weights.COCO_V1.url}#sha256=258fb6c6",
    "detectron2": "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/"
    "model_final_280758.pkl#sha256=3c25caca37baabbff3e22cc9eb0923db165a0c18b867871a3bf3570bac9b7ef0",
}
"""In place of a file: torchvision's weights and those of Detectron2's model zoo, both of COCO, downloaded once."""

SHORTER_SIDE = 800
"""Of the images that both were trained on; the longer side is at most 1333."""

_BODY, _PREDICTOR = "backbone.body.", ("heads.class_scores.", "heads.box_deltas.")
_SCALINGS = {
    "torchvision": IMAGENET_SCALING,
    "detectron2": InputScaling("bgr", DETECTRON2_PREPROCESSING.mean, DETECTRON2_PREPROCESSING.std),
}
_NORM_EPS = 1e-5


@dataclass(frozen=True)
class PublishedDetector:
    """A file with all the weights of a Faster R-CNN on a feature pyramid.

    Attributes:
        source: for messages.
        origin: whose it is, and so how the network computes.
        tensors: by this package's names, background first, the first convolution for the origin's channels.
    """

    source: str
    origin: Literal["torchvision", "detectron2"]
    tensors: Mapping[str, Tensor]

    @property
    def body(self) -> WeightFile:
        """The backbone's part."""
        own = {name: tensor for name, tensor in self.tensors.items() if name.startswith(_BODY)}
        return WeightFile(self.source, own, _SCALINGS[self.origin])


@dataclass(frozen=True)
class LoadedDetector:
    """What became of a published detector's tensors.

    Attributes:
        loaded: their number.
        classes: that the file's predictor knows, without background.
        fresh: the network's tensors that the file has not, or has in another shape; they keep the values they had.
    """

    source: str
    loaded: int
    classes: int
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        predictor = any(name.startswith(_PREDICTOR) for name in self.fresh)
        others = [name for name in self.fresh if not name.startswith(_PREDICTOR)]
        what = "starts fresh, its shape being another" if predictor else "is taken too, its classes in their order"
        text = f"{self.source}: {self.loaded} tensors loaded; its predictor of {self.classes} classes {what}"
        return f"{text}; also fresh: {', '.join(others)}" if others else text


def is_detectors(source: str | Path) -> bool:
    """Whether the name alone says that these are weights of a whole detector, a word or a pickle of Detectron2's."""
    return str(source) in PUBLISHED or _suffix(source) == ".pkl"


def open_detector(source: str | Path, backbone: BackboneConfig) -> PublishedDetector | WeightFile:
    """Weights of a whole detector; where the file has but a backbone's, those.

    Args:
        source: a word of `PUBLISHED`; or a path or URL, of Detectron2's `.pkl`, of a state dict, or of safetensors.

    Raises:
        InputError: there is no such file, it is damaged, or its pickle asks for more than arrays.
        TinydetError: a download fails, or its checksum is wrong.
    """
    address = PUBLISHED.get(str(source), str(source))
    if _suffix(address) == ".pkl":
        path = fetched(address) if _is_url(address) else Path(address)
        return PublishedDetector(str(source), "detectron2", read_detectron2(path))
    file = open_weights(address, backbone)
    if any(name.startswith("backbone.bottom_up.") for name in file.tensors):
        return PublishedDetector(str(source), "detectron2", from_detectron2(file.tensors))
    if not any(name.startswith("roi_heads.") for name in file.tensors):
        return file
    tensors = from_torchvision(file.tensors)
    if _name(address) == _name(PUBLISHED["coco"]):
        tensors = _with_usual_eps(tensors)
    return PublishedDetector(str(source), "torchvision", tensors)


def published_config(config: FasterRCNNFPNConfig, published: PublishedDetector) -> FasterRCNNFPNConfig:
    """`config` computing as the published network does; its size, classes, images and anchors stay.

    The channels stay in the order of `config`: `load_detector` brings the first convolution to it.
    """
    theirs = (torchvision_config if published.origin == "torchvision" else detectron2_config)(config.classes)
    anchors = replace(config.proposals.anchors, rounded=theirs.proposals.anchors.rounded)
    return replace(
        theirs,
        backbone=replace(config.backbone, stride_in_first=theirs.backbone.stride_in_first),
        preprocessing=pretrained_preprocessing(config.preprocessing, config.backbone, published.body),
        proposals=replace(theirs.proposals, anchors=anchors),
        regions=replace(
            theirs.regions,
            output_size=config.regions.output_size,
            class_agnostic_boxes=config.regions.class_agnostic_boxes,
        ),
        quantizer=config.quantizer,
    )


def load_detector(detector: Any, published: PublishedDetector) -> LoadedDetector:
    """Give a Faster R-CNN on a feature pyramid the published weights.

    Raises:
        InputError: the backbone is another one.
    """
    body = load_pretrained(detector, published.body)
    if faults := [*body.missing, *body.wrong_shape]:
        raise InputError(
            f"{published.source}: not the weights of this {type(detector).__name__}: {len(faults)} tensors of the "
            f"backbone do not fit, such as {faults[0]}; published are those of --backbone resnet50 --width 1"
        )
    own, loaded, fresh = detector.state_dict(), len(body.loaded), []
    with torch.no_grad():
        for name, value in own.items():
            if name.startswith(_BODY):
                continue
            theirs = published.tensors.get(name)
            if theirs is not None and theirs.shape == value.shape:
                value.copy_(theirs)
                loaded += 1
            else:
                fresh.append(name if theirs is None else f"{name} ({_shapes(theirs, value)})")
    scores = published.tensors.get("heads.class_scores.bias")
    return LoadedDetector(published.source, loaded, 0 if scores is None else len(scores) - 1, tuple(fresh))


def _shapes(theirs: Tensor, own: Tensor) -> str:
    return f"{list(theirs.shape)} there, {list(own.shape)} here"


def _with_usual_eps(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scales of the norms such that the usual eps computes what none does: torchvision runs `coco`'s weights so."""
    scaled = dict(tensors)
    for name, variance in tensors.items():
        if name.endswith(".running_var"):
            weight = name.replace("running_var", "weight")
            scaled[weight] = tensors[weight] * ((variance + _NORM_EPS) / variance).sqrt()
    return scaled


def _is_url(text: str) -> bool:
    return urlsplit(text).scheme in ("http", "https")


def _name(address: str) -> str:
    """Of a file or of a URL's."""
    return PurePosixPath(urlsplit(address).path if _is_url(address) else address).name


def _suffix(source: str | Path) -> str:
    return PurePosixPath(_name(str(source))).suffix
