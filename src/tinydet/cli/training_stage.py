"""What the training verbs share: from their options to the parts of a run, and the run itself."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydet.errors import InputError

if TYPE_CHECKING:
    from tinydet.data.transforms import Augment
    from tinydet.detectors.choice import DetectorChoice
    from tinydet.records import Sample
    from tinydet.training.loop import TrainingResult
    from tinydet.training.schedule import Schedule
    from tinydet.training.validation import Validate


def open_splits(data: str, train_split: str | None, test_split: str | None) -> Any:
    from tinydet.datasets import open_dataset
    from tinydet.datasets.selection import select_splits

    dataset = open_dataset(data)
    if not dataset.classes:
        first = f"; the first fault: {dataset.faults[0]}" if dataset.faults else ""
        raise InputError(f"{data}: no class is named in it{first}")
    return select_splits(dataset, train_split, test_split)


def detector_choice(
    detector: str,
    backbone: str,
    width: float,
    shorter_side: int | None,
    gray: bool,
    norm: str | None,
    anchor_sides: str | None,
    anchor_ratios: str | None,
    quantizer: str | None,
    weights: str | None,
    ssd_head: str,
    default_boxes: int,
    frozen_blocks: int,
) -> DetectorChoice:
    from tinydet.detectors.choice import DetectorChoice

    shorter_side = (300 if detector == "ssd" else 600) if shorter_side is None else shorter_side
    if not 0 < width < math.inf or shorter_side < 16:
        raise InputError(f"width {width:g} must be above 0, shorter side {shorter_side} at least 16")
    return DetectorChoice(
        one_of("detector", detector, "faster_rcnn", "faster_rcnn_fpn", "rfcn", "ssd"),
        one_of("backbone", backbone, "resnet18", "resnet50", "vgg16", "mobilenet_v1"),
        width,
        shorter_side,
        gray,
        one_of("norm", norm or ("frozen" if weights else "batch"), "batch", "frozen", "none"),
        numbers("anchor sides", anchor_sides),
        numbers("anchor ratios", anchor_ratios),
        checked(lambda: quantizer_named(quantizer)),
        predictor=one_of("SSD head", ssd_head, "3x3", "1x1", "lite"),
        default_boxes=one_of("default boxes", default_boxes, 1917, 3000),
        frozen_blocks=frozen_blocks,
    )


def quantizer_named(text: str | None) -> Any:
    """`uniform`, `uniform:0.5` or `power_of_two` to a quantizer's configuration."""
    from tinydet.quantizers import PowerOfTwoQuantizerConfig, UniformQuantizerConfig

    if text is None:
        return None
    kind, _, stride = text.partition(":")
    if kind == "uniform":
        strides = numbers("quantizer stride", stride) or (1.0,)
        if len(strides) > 1:
            raise InputError(f"quantizer {text!r}: expected one stride, such as uniform:0.5")
        return UniformQuantizerConfig(strides[0])
    if text == "power_of_two":
        return PowerOfTwoQuantizerConfig()
    raise InputError(f"quantizer {text!r}: expected uniform, uniform:STRIDE or power_of_two")


def starting_network(
    choice: DetectorChoice, classes: tuple[str, ...], weights: str | None, start: Path | None, seed: int
) -> Any:
    """The detector to train: fresh, with a backbone's weights, or another run's (with Q put in where asked for)."""
    from dataclasses import replace

    import torch

    from tinydet.backbones.pretrained import load_pretrained, pretrained_preprocessing
    from tinydet.detectors import build_detector
    from tinydet.detectors.choice import detector_config
    from tinydet.detectors.layer_channels import rebuilt
    from tinydet.training.checkpoint import load_checkpoint

    if start is not None:
        if weights:
            raise InputError("--start and --weights both say where to start: give one of them")
        network, info = load_checkpoint(start)
        if info.classes != classes:
            raise InputError(f"{start}: detects {', '.join(info.classes)}; the data has {', '.join(classes)}")
        if choice.quantizer is None:
            return network
        return rebuilt(network, replace(network.config, quantizer=choice.quantizer))
    torch.manual_seed(seed)
    config: Any = checked(lambda: detector_config(choice, classes))
    if weights:
        config = replace(config, preprocessing=pretrained_preprocessing(config.preprocessing, config.backbone, weights))
    network = checked(lambda: build_detector(config))
    if weights:
        print(f"tinydet: {load_pretrained(network, weights)}", file=sys.stderr)
    return network


def training_schedule(
    iterations: int,
    learning_rate: float,
    milestones: str,
    warmup: int,
    batch_size: int,
    clip_norm: float,
    ema: float,
    precision: str,
) -> Schedule:
    from tinydet.training.schedule import Schedule

    return checked(
        lambda: Schedule(
            iterations,
            learning_rate,
            numbers("milestones", milestones) or (),
            warmup_iterations=warmup,
            batch_size=batch_size,
            clip_norm=clip_norm or None,
            ema_decay=ema or None,
            precision=one_of("precision", precision, "32", "bf16", "16"),
        )
    )


def run_stage(
    step: Any,
    selection: Any,
    schedule: Schedule,
    out: Path,
    augment: Augment,
    validate_every: int | None,
    protocol: str,
    seed: int,
    device: str,
    validated: bool = True,
) -> TrainingResult:
    from tinydet.data.loader import make_loader
    from tinydet.datasets import usable_samples
    from tinydet.training.loop import train as train_loop

    chosen_device = _device(device)
    if validate_every is not None and validate_every < 1:
        raise InputError(f"validate every {validate_every} steps: expected at least 1")
    validate = validation_on(selection, protocol)
    samples: tuple[Sample, ...] = usable_samples(selection.dataset, selection.train)
    loader = make_loader(samples, step.detector.config.preprocessing, schedule.batch_size, augment, seed)
    every = validate_every or max(1, schedule.iterations // 10)
    return train_loop(
        step,
        loader,
        schedule,
        out,
        validate=validate if validated else None,
        validate_every=every,
        device=chosen_device,
        title=out.name,
    )


def validation_on(selection: Any, protocol: str) -> Validate:
    """What measures a detector on the test split."""
    from tinydet.datasets import usable_samples
    from tinydet.training.validation import Validate

    name = one_of("protocol", protocol, "voc07", "voc", "coco")
    return Validate(usable_samples(selection.dataset, selection.test), selection.dataset.classes, name)


def augmentation(network: Any, flip: float, jitter: str | None, ssd_augment: bool | None) -> Augment:
    """How training images are varied: as SSD's where that is asked for, or where it is not said and this is an SSD."""
    from tinydet.data.ssd_augment import SSDAugmentConfig
    from tinydet.data.transforms import AugmentConfig
    from tinydet.detectors.ssd import SSD

    if ssd_augment or (ssd_augment is None and isinstance(network, SSD)):
        return checked(lambda: SSDAugmentConfig(flip_probability=flip))
    return checked(lambda: AugmentConfig(flip, whole_numbers("jitter", jitter) or ()))


def print_result(result: TrainingResult, json_file: Path | None) -> None:
    from tinydet.files import write_json

    shown = {name: value for name, value in result.metrics.items() if isinstance(value, float)}
    print(f"{result.checkpoint}: {', '.join(f'{name} {value:.4f}' for name, value in shown.items()) or 'trained'}")
    if json_file:
        write_json(json_file, {"checkpoint": str(result.checkpoint), "steps": result.steps, "metrics": result.metrics})


def numbers(what: str, text: str | None) -> tuple[float, ...] | None:
    """`1,2.5` to numbers; None for nothing."""
    if not text:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
        if not all(map(math.isfinite, values)):
            raise ValueError("not finite")
    except ValueError as error:
        raise InputError(f"{what} {text!r}: expected numbers with commas between, such as 0.5,1,2") from error
    return values


def whole_numbers(what: str, text: str | None) -> tuple[int, ...] | None:
    """`0,1` to whole numbers; None for nothing."""
    values = numbers(what, text)
    if values is not None and any(value != int(value) for value in values):
        raise InputError(f"{what} {text!r}: expected whole numbers with commas between, such as 0,1")
    return None if values is None else tuple(int(value) for value in values)


def one_of(what: str, value: Any, *allowed: Any) -> Any:
    if value not in allowed:
        raise InputError(f"{what} {value!r}: expected one of {', '.join(map(str, allowed))}")
    return value


def _device(value: str) -> Any:
    return one_of("device", value, "auto", "cpu", "cuda")


def checked(make: Any) -> Any:
    """What `make` gives; a configuration that refuses its values is the user's mistake."""
    try:
        return make()
    except ValueError as error:
        raise InputError(str(error)) from error
