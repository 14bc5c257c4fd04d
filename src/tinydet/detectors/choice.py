"""A detector in a few words, as a person chooses it, and the whole configuration that these words stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from tinydet.backbones import BackboneConfig, MobileNetConfig, ResNetConfig, VGGConfig
from tinydet.backbones.normalization import Normalization
from tinydet.detectors import DetectorConfig, FasterRCNNConfig, FasterRCNNFPNConfig, RFCNConfig, SSDConfig
from tinydet.detectors.anchors import AnchorConfig
from tinydet.detectors.default_boxes import DEFAULT_BOXES_1917, DEFAULT_BOXES_3000
from tinydet.detectors.proposals import ProposalConfig
from tinydet.detectors.regions import RegionConfig
from tinydet.detectors.ssd_heads import Predictor
from tinydet.errors import InputError
from tinydet.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tinydet.quantizers import QuantizerConfig

DetectorKind = Literal["faster_rcnn", "faster_rcnn_fpn", "rfcn", "ssd"]
BackboneKind = Literal["resnet18", "resnet50", "vgg16", "mobilenet_v1"]

AnyRegions = TypeVar("AnyRegions", bound=RegionConfig)

_USUAL_SHORTER_SIDE = 600  # the size at which the papers give their anchors


@dataclass(frozen=True)
class DetectorChoice:
    """What a person says about a detector; None means the usual.

    Attributes:
        width: n of a `-1-n` network; below 1 widens.
        shorter_side: of the resized images. Default anchors are scaled with it. For SSD, whose images are square, both.
        gray: one input channel instead of three.
        anchor_sides, anchor_ratios: in pixels of the resized image; height divided by width.
        class_agnostic_boxes: one box a region instead of one a class; usual for rfcn. Not SSD's.
        groups: of vgg16's convolutions; `VGGConfig` says what it does to them.
        predictor, default_boxes: SSD's.
        frozen_blocks: of mobilenet_v1, 0 for none.
        bins: along each side of a pooled region; not SSD's.
        hardest: of rfcn, how many regions teach (OHEM); 0 draws them by chance.
        hidden_channels, hidden_kernel: of rfcn's convolution before the score maps; 0 channels leave it out.
    """

    detector: DetectorKind = "faster_rcnn"
    backbone: BackboneKind = "resnet18"
    width: float = 1.0
    shorter_side: int = _USUAL_SHORTER_SIDE
    gray: bool = False
    normalization: Normalization = "batch"
    anchor_sides: tuple[float, ...] | None = None
    anchor_ratios: tuple[float, ...] | None = None
    quantizer: QuantizerConfig | None = None
    class_agnostic_boxes: bool | None = None
    groups: int | Literal["depthwise"] = 1
    predictor: Predictor = "3x3"
    default_boxes: Literal[1917, 3000] = 1917
    frozen_blocks: int = 0
    bins: int | None = None
    hardest: int | None = None
    hidden_channels: int | None = None
    hidden_kernel: int | None = None


_TWO_STAGE: tuple[DetectorKind, ...] = ("faster_rcnn", "faster_rcnn_fpn", "rfcn")
_SPEAKS_TO: dict[str, tuple[DetectorKind, ...]] = {
    "anchor_sides": _TWO_STAGE,
    "anchor_ratios": _TWO_STAGE,
    "class_agnostic_boxes": _TWO_STAGE,
    "bins": _TWO_STAGE,
    "hardest": ("rfcn",),
    "hidden_channels": ("rfcn",),
    "hidden_kernel": ("rfcn",),
    "predictor": ("ssd",),
    "default_boxes": ("ssd",),
}
"""The detectors that a field says anything to; what is not listed says something to all."""

MOST_BINS, MOST_KERNEL = 16, 15


def said_of_network(choice: DetectorChoice) -> dict[str, Any]:
    """The fields of `_SPEAKS_TO` and of the backbone's splitting and freezing that differ from the usual."""
    names = (*_SPEAKS_TO, "groups", "frozen_blocks")
    usual = DetectorChoice()
    return {name: getattr(choice, name) for name in names if getattr(choice, name) != getattr(usual, name)}


def words_of(config: DetectorConfig) -> dict[str, Any]:
    """The fields of `DetectorChoice` that every detector has, of one that is built already."""
    preprocessing, backbone = config.preprocessing, config.backbone
    kinds: dict[type, DetectorKind] = {
        FasterRCNNConfig: "faster_rcnn",
        FasterRCNNFPNConfig: "faster_rcnn_fpn",
        RFCNConfig: "rfcn",
        SSDConfig: "ssd",
    }
    match backbone:
        case ResNetConfig():
            kind = f"resnet{backbone.depth}"
        case VGGConfig():
            kind = "vgg16"
        case MobileNetConfig():
            kind = "mobilenet_v1"
    return {
        "detector": kinds[type(config)],
        "backbone": kind,
        "width": backbone.width_divisor,
        "shorter_side": preprocessing.fixed_size_hw[0] if preprocessing.fixed_size_hw else preprocessing.shorter_side,
        "gray": preprocessing.channels == "gray",
        "normalization": backbone.normalization,
    }


def detector_config(choice: DetectorChoice, classes: tuple[str, ...]) -> DetectorConfig:
    """The configuration of a chosen detector.

    Raises:
        InputError: the choices do not go together.
    """
    _refuse_what_says_nothing(choice)
    preprocessing = _preprocessing(choice)
    match choice.detector:
        case "faster_rcnn":
            return FasterRCNNConfig(
                classes,
                backbone_config(choice),
                preprocessing,
                ProposalConfig(_anchors(choice, (128.0, 256.0, 512.0), (0.5, 1.0, 2.0))),
                _regions(choice, RegionConfig()),
                choice.quantizer,
            )
        case "rfcn":
            return _rfcn_config(choice, classes, preprocessing)
        case "ssd":
            return _ssd_config(choice, classes, preprocessing)
        case "faster_rcnn_fpn":
            if not isinstance(config := backbone_config(choice), ResNetConfig):
                raise InputError(
                    f"a feature pyramid stands on a ResNet, not on {choice.backbone}: use resnet18 or resnet50"
                )
            base_fpn = FasterRCNNFPNConfig(classes)
            sides = choice.anchor_sides or tuple(
                s * choice.shorter_side / 800 for s in (32.0, 64.0, 128.0, 256.0, 512.0)
            )
            if len(sides) != 5:
                raise InputError(f"a feature pyramid takes 5 anchor sides, one a level, not {len(sides)}")
            anchors = AnchorConfig(tuple((s,) for s in sides), choice.anchor_ratios or (0.5, 1.0, 2.0))
            return replace(
                base_fpn,
                backbone=config,
                preprocessing=replace(preprocessing, size_divisor=32),
                proposals=replace(base_fpn.proposals, anchors=anchors),
                regions=_regions(choice, base_fpn.regions),
                quantizer=choice.quantizer,
            )


def _refuse_what_says_nothing(choice: DetectorChoice) -> None:
    for name, value in said_of_network(choice).items():
        detectors = _SPEAKS_TO.get(name, (choice.detector,))
        if choice.detector not in detectors:
            own = "; it has default boxes of its own" if name.startswith("anchor") else ""
            raise InputError(
                f"{name.replace('_', ' ')} {value!r} says nothing to {choice.detector}{own}; it is for "
                f"{', '.join(detectors)}"
            )
    if choice.bins is not None and not 1 <= choice.bins <= MOST_BINS:
        raise InputError(f"{choice.bins} bins along each side of a region: expected 1 to {MOST_BINS}")
    if choice.hidden_kernel is not None and choice.hidden_kernel > MOST_KERNEL:
        raise InputError(f"a hidden kernel of {choice.hidden_kernel}: the most is {MOST_KERNEL}")


def _regions(choice: DetectorChoice, usual: AnyRegions) -> AnyRegions:
    agnostic = choice.class_agnostic_boxes
    return replace(
        usual,
        output_size=usual.output_size if choice.bins is None else choice.bins,
        class_agnostic_boxes=usual.class_agnostic_boxes if agnostic is None else agnostic,
    )


def _rfcn_config(choice: DetectorChoice, classes: tuple[str, ...], preprocessing: Preprocessing) -> RFCNConfig:
    usual = RFCNConfig(classes)
    regions = _regions(choice, usual.regions)
    if choice.hardest is not None:
        regions = replace(regions, hardest=choice.hardest or None)
    return replace(
        usual,
        backbone=backbone_config(choice),
        preprocessing=preprocessing,
        proposals=replace(usual.proposals, anchors=_anchors(choice, (64.0, 128.0, 256.0, 512.0), (1.0,))),
        regions=regions,
        quantizer=choice.quantizer,
        hidden_channels=usual.hidden_channels if choice.hidden_channels is None else choice.hidden_channels,
        hidden_kernel=usual.hidden_kernel if choice.hidden_kernel is None else choice.hidden_kernel,
    )


def _ssd_config(choice: DetectorChoice, classes: tuple[str, ...], preprocessing: Preprocessing) -> SSDConfig:
    usual = SSDConfig(classes)
    return SSDConfig(
        classes,
        backbone_config(choice),
        replace(preprocessing, fixed_size_hw=(choice.shorter_side, choice.shorter_side)),
        DEFAULT_BOXES_3000 if choice.default_boxes == 3000 else DEFAULT_BOXES_1917,
        (512,) * (choice.backbone == "vgg16") + usual.extra_channels,  # VGG16 has one map fewer of its own
        choice.predictor,
        separable_extras=choice.predictor == "lite",
        quantizer=choice.quantizer,
    )


def backbone_config(choice: DetectorChoice) -> BackboneConfig:
    if choice.frozen_blocks and choice.backbone != "mobilenet_v1":
        raise InputError(f"frozen blocks are of mobilenet_v1, not of {choice.backbone}: freeze its normalization alone")
    if choice.groups != 1 and choice.backbone != "vgg16":
        raise InputError(f"convolutions in groups ({choice.groups}): only vgg16 can be split, not {choice.backbone}")
    match choice.backbone:
        case "resnet18":
            return ResNetConfig(18, choice.width, choice.normalization)
        case "resnet50":
            return ResNetConfig(50, choice.width, choice.normalization)
        case "vgg16":
            return VGGConfig(choice.width, choice.normalization, choice.groups)
        case "mobilenet_v1":
            return MobileNetConfig(choice.width, choice.normalization, choice.frozen_blocks)


def _anchors(choice: DetectorChoice, usual_sides: tuple[float, ...], usual_ratios: tuple[float, ...]) -> AnchorConfig:
    scale = choice.shorter_side / _USUAL_SHORTER_SIDE
    sides = choice.anchor_sides or tuple(round(side * scale, 1) for side in usual_sides)
    return AnchorConfig((sides,), choice.anchor_ratios or usual_ratios)


def _preprocessing(choice: DetectorChoice) -> Preprocessing:
    longer_side = round(choice.shorter_side * 5 / 3)  # 1000 at 600
    if choice.gray:
        mean, std = sum(IMAGENET_MEAN) / 3, sum(IMAGENET_STD) / 3
        return Preprocessing(choice.shorter_side, longer_side, channels="gray", mean=(mean,), std=(std,))
    return Preprocessing(choice.shorter_side, longer_side)
