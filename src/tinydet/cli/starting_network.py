"""The network that a training verb begins with: chosen by its options, with published weights or another run's."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydet.cli.option_values import checked, groups_named, numbers, one_of, quantizer_named
from tinydet.cli.training_options import NetworkOptions
from tinydet.errors import InputError

if TYPE_CHECKING:
    from tinydet.compression import KeptCompression
    from tinydet.detectors.choice import DetectorChoice

MOST_PIXELS = 10_000
"""Of an image's shorter side: beyond it the number is a mistake, or more than memory holds."""

_OPTIONS = {"normalization": "norm"}
"""Where an option has another name than the field of `DetectorChoice`."""


@dataclass(frozen=True, eq=False)
class StartingNetwork:
    """Attributes:
    kept: what was done to its weights, and must not be undone; None for a network that is no checkpoint's.
    source: the checkpoint or the weights that it has; None: they are random.
    """

    detector: Any
    kept: KeptCompression | None = None
    source: str | Path | None = None


def starting_network(options: NetworkOptions, classes: tuple[str, ...], seed: int) -> StartingNetwork:
    """The detector to train: fresh, with published weights, or another run's (with Q put in where asked for).

    Raises:
        InputError: the options do not go together, or the weights do not fit.
    """
    import torch

    choice = detector_choice(options)
    if options.start is not None:
        if options.weights:
            raise InputError("--start and --weights both say where to start: give one of them")
        return _from_checkpoint(options.start, choice, options.typed, classes)
    torch.manual_seed(seed)
    if options.weights:
        network = _from_weights(options.weights, choice, options.shorter_side is None, classes)
        return StartingNetwork(network, source=options.weights)
    return StartingNetwork(_built(choice, classes))


def detector_choice(options: NetworkOptions) -> DetectorChoice:
    """What the options say of the network.

    Raises:
        InputError: a value is not among those expected.
    """
    from tinydet.detectors.choice import DetectorChoice

    side, width = options.shorter_side, options.width
    if side is None:
        side = 300 if options.detector == "ssd" else 600
    if not 0 < width < math.inf or side < 16:
        raise InputError(f"width {width:g} must be above 0, shorter side {side} at least 16")
    if side > MOST_PIXELS:
        raise InputError(f"shorter side {side:,}: the most is {MOST_PIXELS:,} pixels")
    return DetectorChoice(
        detector=one_of("detector", options.detector, "faster_rcnn", "faster_rcnn_fpn", "rfcn", "ssd"),
        backbone=one_of("backbone", options.backbone, "resnet18", "resnet50", "vgg16", "mobilenet_v1"),
        width=width,
        shorter_side=side,
        gray=options.gray,
        normalization=one_of(
            "norm", options.norm or ("frozen" if options.weights else "batch"), "batch", "frozen", "none"
        ),
        anchor_sides=numbers("anchor sides", options.anchor_sides),
        anchor_ratios=numbers("anchor ratios", options.anchor_ratios),
        quantizer=checked(lambda: quantizer_named(options.quantizer)),
        class_agnostic_boxes=options.class_agnostic_boxes,
        groups=groups_named(options.groups),
        predictor=one_of("SSD head", options.ssd_head, "3x3", "1x1", "lite"),
        default_boxes=one_of("default boxes", options.default_boxes, 1917, 3000),
        frozen_blocks=options.frozen_blocks,
        bins=options.bins,
        hardest=options.hardest,
        hidden_channels=options.hidden_channels,
        hidden_kernel=options.hidden_kernel,
    )


def _built(choice: DetectorChoice, classes: tuple[str, ...]) -> Any:
    from tinydet.detectors import build_detector
    from tinydet.detectors.choice import detector_config

    return checked(lambda: build_detector(detector_config(choice, classes)))


def _from_checkpoint(
    start: Path, choice: DetectorChoice, typed: frozenset[str], classes: tuple[str, ...]
) -> StartingNetwork:
    from tinydet.compression import KeptCompression
    from tinydet.detectors.choice import said_of_network, words_of
    from tinydet.detectors.layer_channels import rebuilt
    from tinydet.training.checkpoint import load_checkpoint

    if said := said_of_network(choice):
        name, value = next(iter(said.items()))
        raise InputError(
            f"{name.replace('_', ' ')} {value!r}: with --start the network is that of {start}: leave it out"
        )
    network, info = load_checkpoint(start)
    if info.classes != classes:
        raise InputError(f"{start}: detects {', '.join(info.classes)}; the data has {', '.join(classes)}")
    for word, its in words_of(network.config).items():
        option, asked = _OPTIONS.get(word, word), getattr(choice, word)
        if option in typed and asked != its:
            raise InputError(
                f"--{option.replace('_', '-')} {asked}: with --start the network is that of {start}, which has {its}: "
                "leave it out"
            )
    if choice.quantizer is not None:
        network = rebuilt(network, replace(network.config, quantizer=choice.quantizer))
    return StartingNetwork(network, KeptCompression.of_run(info.extra), start)


def _from_weights(source: str, choice: DetectorChoice, usual_side: bool, classes: tuple[str, ...]) -> Any:
    """A network with the weights of a file: a backbone's, or those of a whole Faster R-CNN on a pyramid."""
    from tinydet.backbones.pretrained import load_pretrained, pretrained_preprocessing
    from tinydet.backbones.weight_files import open_weights
    from tinydet.detectors import build_detector
    from tinydet.detectors.anchors import FPN_ANCHORS
    from tinydet.detectors.choice import backbone_config, detector_config
    from tinydet.detectors.published_detector import (
        SHORTER_SIDE,
        PublishedDetector,
        is_detectors,
        load_detector,
        open_detector,
        published_config,
    )

    backbone = checked(lambda: backbone_config(choice))
    pyramid = choice.detector == "faster_rcnn_fpn"
    if is_detectors(source) and not pyramid:
        raise InputError(
            f"{source}: weights of a whole faster_rcnn_fpn: add --detector faster_rcnn_fpn --backbone resnet50"
        )
    file = open_detector(source, backbone) if pyramid else open_weights(source, backbone)
    if not isinstance(file, PublishedDetector):
        config: Any = checked(lambda: detector_config(choice, classes))
        config = replace(config, preprocessing=pretrained_preprocessing(config.preprocessing, config.backbone, file))
        network = checked(lambda: build_detector(config))
        print(f"tinydet: {load_pretrained(network, file)}", file=sys.stderr)
        return network
    # Its anchors are in pixels of the images that it saw, however large these are now.
    sides = choice.anchor_sides or tuple(side for (side,) in FPN_ANCHORS.sides)
    choice = replace(choice, anchor_sides=sides, shorter_side=SHORTER_SIDE if usual_side else choice.shorter_side)
    whole: Any = checked(lambda: detector_config(choice, classes))
    network = checked(lambda: build_detector(published_config(whole, file)))
    print(f"tinydet: {load_detector(network, file)}", file=sys.stderr)
    return network
