"""Detectors whose layers have other channel counts than their configuration gives: those that channels were taken from.

Such a detector carries `layer_channels`, by layer: `(out, in)` of a convolution or fully connected layer, `(channels,)`
of a normalization. A checkpoint stores it beside the configuration, and `resize_layers` brings a freshly built
detector to these sizes before its weights are filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from tinydet.backbones import RegionTrunk
from tinydet.data.batch import Batch
from tinydet.detectors import RFCN, SSD, DetectorConfig, build_detector
from tinydet.detectors.faster_rcnn_fpn import FasterRCNNFPN
from tinydet.errors import InputError

LayerChannels = Mapping[str, Sequence[int]]
_SIDE = 64  # pixels of an image that all layers can run on


class JoinedLayers(nn.Module):
    """All layers that have weights, from the normalised image to the raw predictions, without choosing any region.

    Where regions would be pooled, the whole map is: channels go the same way, and nothing depends on the weights.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """`[B, C, H, W]` to every layer's output that is a class or a box."""
        detector, maps = self.detector, self.detector.backbone(images)
        if isinstance(detector, SSD):
            maps = (*maps, *detector.heads.extras(maps[-1]))
            predictors = detector.heads.predictors
            return tuple(
                layer(x)
                for layers in (predictors.class_scores, predictors.box_deltas)
                for layer, x in zip(layers, maps)
            )
        if isinstance(detector, RFCN):
            features = pooled = maps[0]
        else:
            size = detector.config.regions.output_size
            levels = maps if isinstance(detector, FasterRCNNFPN) else maps[:1]
            pooled = torch.stack([F.adaptive_avg_pool2d(x, size) for x in levels]).sum(dim=0)
            features = pooled if isinstance(detector, FasterRCNNFPN) else maps[0]
        logits, deltas = detector.proposals.head([features])
        return (*logits, *deltas, *detector.heads(pooled))

    def example(self) -> Tensor:
        """An image that it runs on."""
        preprocessing = self.detector.config.preprocessing
        size_hw = preprocessing.fixed_size_hw or (_SIDE, _SIDE)
        return torch.zeros(1, preprocessing.channel_count, *size_hw)


def resize_layers(detector: Any, channels: LayerChannels) -> None:
    """Give layers these channel counts, with weights of zero, and the detector what follows from them.

    Raises:
        InputError: a layer does not exist, cannot have these channels, or the layers do not fit one another.
    """
    joined = JoinedLayers(detector)
    with _evaluating(detector), torch.no_grad():
        wanted = [x.shape[1] for x in joined(joined.example())]
        for name, counts in channels.items():
            _resize(detector, name, counts)
        try:
            found = [x.shape[1] for x in joined(joined.example())]
        except RuntimeError as error:
            raise InputError(f"layer_channels: these layers do not fit one another: {error}") from error
    if found != wanted:
        raise InputError(f"layer_channels: the outputs have {found} channels, but classes and boxes need {wanted}")
    note_channels(detector, channels)


def note_channels(detector: Any, channels: LayerChannels) -> None:
    """Write down that these layers have these channels, and set what the detector says of its feature maps."""
    before = getattr(detector, "layer_channels", {})
    detector.layer_channels = before | {name: tuple(counts) for name, counts in channels.items()}
    images = JoinedLayers(detector).example()
    size_hw = (images.shape[-2], images.shape[-1])
    with _evaluating(detector), torch.no_grad():
        maps = detector.features(Batch(images, (size_hw,), (size_hw,), (), ("",), ("",)))
    detector.feature_channels = tuple(x.shape[1] for x in maps)
    detector.backbone.channels = detector.feature_channels[: len(detector.backbone.strides)]
    trunk = getattr(detector.heads, "trunk", None)
    if isinstance(trunk, RegionTrunk):
        trunk.out_channels = detector.heads.class_scores.in_features


def rebuilt(detector: Any, config: DetectorConfig) -> Any:
    """A detector of another configuration (with a quantizer, say) with the same layers and weights."""
    fresh: Any = build_detector(config)
    if getattr(detector, "layer_channels", None):
        resize_layers(fresh, detector.layer_channels)
    fresh.load_state_dict(detector.state_dict())
    return fresh


def channels_of_layer(layer: nn.Module) -> tuple[int, ...]:
    """`(out, in)`, or `(channels,)` of a normalization."""
    match layer:
        case nn.Conv2d():
            return layer.out_channels, layer.in_channels
        case nn.Linear():
            return layer.out_features, layer.in_features
        case nn.BatchNorm2d():
            return (layer.num_features,)
        case FrozenBatchNorm2d():
            return (len(layer.weight),)
    raise TypeError(f"a {type(layer).__name__} has no channels to count")


def set_tensor(layer: nn.Module, name: str, value: Tensor) -> None:
    """Put another tensor in the place of a parameter or buffer."""
    old = getattr(layer, name)
    if isinstance(old, nn.Parameter):
        value = nn.Parameter(value.detach().clone(), requires_grad=old.requires_grad)
    setattr(layer, name, value)


def count_channels(layer: nn.Module) -> None:
    """Set the counts that a layer keeps of its channels to those of its weights."""
    match layer:
        case nn.Conv2d():
            out, inner = layer.weight.shape[:2]
            if layer.groups > 1:  # depthwise
                layer.groups = out
            layer.out_channels, layer.in_channels = out, inner * layer.groups
        case nn.Linear():
            layer.out_features, layer.in_features = layer.weight.shape
        case nn.BatchNorm2d():
            layer.num_features = len(layer.weight)


def is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels == layer.out_channels


def _resize(detector: nn.Module, name: str, counts: Sequence[int]) -> None:
    try:
        layer = detector.get_submodule(name)
        before = channels_of_layer(layer)
    except (AttributeError, TypeError):
        raise InputError(f"layer_channels: {name!r} is no layer of this {type(detector).__name__}") from None
    if len(counts) != len(before) or not all(type(count) is int and 1 <= count <= 1 << 20 for count in counts):
        raise InputError(f"layer_channels: {name} has {list(counts)}, expected {len(before)} counts of at least 1")
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        if tuple(counts) == before:
            return
        if not is_depthwise(layer) or counts[0] != counts[1]:
            raise InputError(
                f"layer_channels: {name} is in {layer.groups} groups and cannot have {list(counts)} channels"
            )
        counts = (counts[0], 1)
    for key, value in [*layer.named_parameters(), *layer.named_buffers()]:
        if key == "weight" and len(counts) == 2:
            set_tensor(layer, key, value.new_zeros(*counts, *value.shape[2:]))
        elif value.ndim == 1:
            set_tensor(layer, key, value.new_zeros(counts[0]))
    count_channels(layer)


class _evaluating:
    """The module is in evaluation mode within the block."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.was_training = module, [part for part in module.modules() if part.training]

    def __enter__(self) -> None:
        self.module.eval()

    def __exit__(self, *error: object) -> None:
        for part in self.was_training:
            part.training = True
