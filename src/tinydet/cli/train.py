"""`tinydet train` and `tinydet mimic`: one stage each, a checkpoint out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinydet.cli import app
from tinydet.errors import InputError

if TYPE_CHECKING:
    from tinydet.detectors.choice import DetectorChoice
    from tinydet.records import Sample
    from tinydet.training.loop import TrainingResult
    from tinydet.training.schedule import Schedule

NETWORK, TRAINING, TEACHING = "Network", "Training", "Teaching"

Data = Annotated[
    str, typer.Option(metavar="PATH", help="A data set in VOC, COCO, YOLO or WIDER FACE layout, or `digits`.")
]
Out = Annotated[
    Path, typer.Option(metavar="DIR", help="The run's folder; the same command goes on with what is there.")
]
TrainSplit = Annotated[
    str | None, typer.Option(metavar="NAME", help="Split to train on; by default trainval or train.")
]
TestSplit = Annotated[str | None, typer.Option(metavar="NAME", help="Split to validate on; by default test or val.")]
DetectorName = Annotated[
    str, typer.Option(metavar="NAME", help="faster_rcnn, faster_rcnn_fpn or rfcn.", rich_help_panel=NETWORK)
]
BackboneName = Annotated[
    str, typer.Option(metavar="NAME", help="resnet18, resnet50, vgg16 or mobilenet_v1.", rich_help_panel=NETWORK)
]
Width = Annotated[
    float, typer.Option(metavar="N", help="Every layer's channels are divided by N.", rich_help_panel=NETWORK)
]
ShorterSide = Annotated[
    int, typer.Option(metavar="PIXELS", help="Images are resized to this shorter side.", rich_help_panel=NETWORK)
]
Gray = Annotated[bool, typer.Option("--gray", help="One input channel.", rich_help_panel=NETWORK)]
Norm = Annotated[
    str | None,
    typer.Option(
        metavar="CHOICE",
        help="Batch normalization: batch (trained), frozen, or none. By default frozen from `--weights`, else batch.",
        rich_help_panel=NETWORK,
    ),
]
AnchorSides = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="Anchor sides, in pixels of the resized image.", rich_help_panel=NETWORK),
]
AnchorRatios = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="Anchor heights divided by widths.", rich_help_panel=NETWORK)
]
Quantizer = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Q on the last feature map: uniform, uniform:STRIDE, or power_of_two.",
        rich_help_panel=NETWORK,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Backbone weights to start from: safetensors, a torchvision state dict, or `imagenet` to download.",
        rich_help_panel=NETWORK,
    ),
]
Start = Annotated[
    Path | None,
    typer.Option(
        metavar="CHECKPOINT", help="Start from this detector; the network options are its own.", rich_help_panel=NETWORK
    ),
]
Iterations = Annotated[int, typer.Option(metavar="N", help="Optimizer steps.", rich_help_panel=TRAINING)]
LearningRate = Annotated[float, typer.Option(metavar="X", help="After the warm-up.", rich_help_panel=TRAINING)]
Milestones = Annotated[
    str,
    typer.Option(
        metavar="A,B", help="Where the learning rate falls to a tenth, as fractions.", rich_help_panel=TRAINING
    ),
]
Warmup = Annotated[int, typer.Option(metavar="N", help="Steps of warm-up.", rich_help_panel=TRAINING)]
BatchSize = Annotated[int, typer.Option(metavar="N", help="Images a step.", rich_help_panel=TRAINING)]
ClipNorm = Annotated[
    float, typer.Option(metavar="X", help="Gradients are scaled down to this norm; 0: never.", rich_help_panel=TRAINING)
]
Ema = Annotated[
    float, typer.Option(metavar="DECAY", help="Keep a moving average of the weights; 0: no.", rich_help_panel=TRAINING)
]
Precision = Annotated[str, typer.Option(metavar="BITS", help="32, bf16 or 16.", rich_help_panel=TRAINING)]
Flip = Annotated[float, typer.Option(metavar="P", help="Probability of mirroring an image.", rich_help_panel=TRAINING)]
Jitter = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="Shorter sides to draw from, instead of one.", rich_help_panel=TRAINING),
]
ValidateEvery = Annotated[
    int | None,
    typer.Option(metavar="N", help="Steps between validations; by default a tenth.", rich_help_panel=TRAINING),
]
ProtocolName = Annotated[
    str, typer.Option(metavar="NAME", help="voc07, voc or coco: how validation measures.", rich_help_panel=TRAINING)
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of weights, order and augmentation.")]
Device = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures as JSON.")]


@app.command()
def train(
    data: Data,
    out: Out,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    detector: DetectorName = "faster_rcnn",
    backbone: BackboneName = "resnet18",
    width: Width = 1.0,
    shorter_side: ShorterSide = 600,
    gray: Gray = False,
    norm: Norm = None,
    anchor_sides: AnchorSides = None,
    anchor_ratios: AnchorRatios = None,
    quantizer: Quantizer = None,
    weights: Weights = None,
    start: Start = None,
    iterations: Iterations = 40_000,
    learning_rate: LearningRate = 0.001,
    milestones: Milestones = "0.75",
    warmup: Warmup = 0,
    batch_size: BatchSize = 2,
    clip_norm: ClipNorm = 10.0,
    ema: Ema = 0.0,
    precision: Precision = "32",
    flip: Flip = 0.5,
    jitter: Jitter = None,
    validate_every: ValidateEvery = None,
    protocol: ProtocolName = "voc07",
    seed: Seed = 0,
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Train a detector on a labelled data set.

    `tinydet train --data photos/ --out runs/photos --width 16 --shorter-side 320 --iterations 2000
    --learning-rate 0.01`

    `tinydet train --data VOCdevkit --out runs/teacher --weights imagenet`

    Several GPUs: the same command after `torchrun --nproc-per-node 4 -m`.
    """
    from tinydet.training.steps import DetectionStep

    selection = _open(data, train_split, test_split)
    choice = _choice(
        detector, backbone, width, shorter_side, gray, norm, anchor_sides, anchor_ratios, quantizer, weights
    )
    network = _network(choice, selection.dataset.classes, weights, start, seed)
    schedule = _schedule(iterations, learning_rate, milestones, warmup, batch_size, clip_norm, ema, precision)
    result = _run(
        DetectionStep(network), selection, schedule, out, flip, jitter, validate_every, protocol, seed, device
    )
    _finish(result, json_file)


@app.command()
def mimic(
    data: Data,
    out: Out,
    teacher: Annotated[
        Path,
        typer.Option(metavar="CHECKPOINT", help="The trained teacher, with Q or without.", rich_help_panel=TEACHING),
    ],
    weight: Annotated[
        float, typer.Option("--lambda", metavar="X", help="Weight of the mimic loss.", rich_help_panel=TEACHING)
    ] = 1.0,
    regions: Annotated[
        int, typer.Option(metavar="N", help="Regions of each image; the papers: 128 or 2000.", rich_help_panel=TEACHING)
    ] = 128,
    region_source: Annotated[
        str, typer.Option(metavar="WHOSE", help="teacher or student: whose proposals.", rich_help_panel=TEACHING)
    ] = "teacher",
    per_entry: Annotated[
        bool,
        typer.Option("--per-entry", help="Divide each distance by its entries (Li et al.).", rich_help_panel=TEACHING),
    ] = False,
    features_only: Annotated[
        bool,
        typer.Option(
            "--features-only",
            help="The mimic loss alone, for the backbone: the first of two stages; then `train --start`.",
            rich_help_panel=TEACHING,
        ),
    ] = False,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    detector: DetectorName = "faster_rcnn",
    backbone: BackboneName = "resnet18",
    width: Width = 16.0,
    shorter_side: ShorterSide = 600,
    gray: Gray = False,
    norm: Norm = None,
    anchor_sides: AnchorSides = None,
    anchor_ratios: AnchorRatios = None,
    quantizer: Quantizer = None,
    weights: Weights = None,
    start: Start = None,
    iterations: Iterations = 40_000,
    learning_rate: LearningRate = 0.001,
    milestones: Milestones = "0.75",
    warmup: Warmup = 0,
    batch_size: BatchSize = 2,
    clip_norm: ClipNorm = 10.0,
    ema: Ema = 0.0,
    precision: Precision = "32",
    flip: Flip = 0.5,
    jitter: Jitter = None,
    validate_every: ValidateEvery = None,
    protocol: ProtocolName = "voc07",
    seed: Seed = 0,
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Train a student that learns to match a teacher's features in regions of interest.

    Two switches say which method it is: Q on the teacher (`train --start TEACHER --quantizer uniform` makes one) and
    Q on the student (`--quantizer`). Neither: Li et al. 2017; both: Quantization Mimic.

    `tinydet mimic --data BCCD --out runs/student --teacher runs/quantized_teacher --quantizer uniform --width 16`
    """
    from tinydet.distill.mimic import MimicConfig
    from tinydet.distill.steps import FeatureMimicStep, MimicStep
    from tinydet.distill.teacher import Teacher
    from tinydet.training.checkpoint import load_checkpoint

    selection = _open(data, train_split, test_split)
    config = _checked(
        lambda: MimicConfig(weight, regions, one_of("region source", region_source, "teacher", "student"), 7, per_entry)
    )
    model, info = load_checkpoint(teacher)
    choice = _choice(
        detector, backbone, width, shorter_side, gray, norm, anchor_sides, anchor_ratios, quantizer, weights
    )
    student = _network(choice, selection.dataset.classes, weights, start, seed)
    if info.classes != selection.dataset.classes:
        raise InputError(
            f"{teacher}: a teacher of {', '.join(info.classes)}; the data has {', '.join(selection.dataset.classes)}"
        )
    schedule = _schedule(iterations, learning_rate, milestones, warmup, batch_size, clip_norm, ema, precision)
    kind = FeatureMimicStep if features_only else MimicStep
    step = kind(student, Teacher(model, config.regions), config)
    result = _run(
        step, selection, schedule, out, flip, jitter, validate_every, protocol, seed, device, not features_only
    )
    _finish(result, json_file)


def _open(data: str, train_split: str | None, test_split: str | None) -> Any:
    from tinydet.datasets import open_dataset
    from tinydet.datasets.selection import select_splits

    return select_splits(open_dataset(data), train_split, test_split)


def _choice(
    detector: str,
    backbone: str,
    width: float,
    shorter_side: int,
    gray: bool,
    norm: str | None,
    anchor_sides: str | None,
    anchor_ratios: str | None,
    quantizer: str | None,
    weights: str | None,
) -> DetectorChoice:
    from tinydet.detectors.choice import DetectorChoice

    if width <= 0 or shorter_side < 16:
        raise InputError(f"width {width:g} must be above 0, shorter side {shorter_side} at least 16")
    return DetectorChoice(
        one_of("detector", detector, "faster_rcnn", "faster_rcnn_fpn", "rfcn"),
        one_of("backbone", backbone, "resnet18", "resnet50", "vgg16", "mobilenet_v1"),
        width,
        shorter_side,
        gray,
        one_of("norm", norm or ("frozen" if weights else "batch"), "batch", "frozen", "none"),
        numbers("anchor sides", anchor_sides),
        numbers("anchor ratios", anchor_ratios),
        _checked(lambda: quantizer_named(quantizer)),
    )


def quantizer_named(text: str | None) -> Any:
    """`uniform`, `uniform:0.5` or `power_of_two` to a quantizer's configuration."""
    from tinydet.quantizers import PowerOfTwoQuantizerConfig, UniformQuantizerConfig

    if text is None:
        return None
    kind, _, stride = text.partition(":")
    if kind == "uniform":
        return UniformQuantizerConfig(*(numbers("quantizer stride", stride) or (1.0,)))
    if text == "power_of_two":
        return PowerOfTwoQuantizerConfig()
    raise InputError(f"quantizer {text!r}: expected uniform, uniform:STRIDE or power_of_two")


def _network(
    choice: DetectorChoice, classes: tuple[str, ...], weights: str | None, start: Path | None, seed: int
) -> Any:
    """The detector to train: fresh, with a backbone's weights, or another run's (with Q put in where asked for)."""
    from dataclasses import replace

    import torch

    from tinydet.backbones.pretrained import load_pretrained, pretrained_preprocessing
    from tinydet.detectors import build_detector
    from tinydet.detectors.choice import detector_config
    from tinydet.training.checkpoint import load_checkpoint

    if start is not None:
        if weights:
            raise InputError("--start and --weights both say where to start: give one of them")
        network, info = load_checkpoint(start)
        if info.classes != classes:
            raise InputError(f"{start}: detects {', '.join(info.classes)}; the data has {', '.join(classes)}")
        if choice.quantizer is None:
            return network
        changed = build_detector(replace(network.config, quantizer=choice.quantizer))
        changed.load_state_dict(network.state_dict())
        return changed
    torch.manual_seed(seed)
    config: Any = _checked(lambda: detector_config(choice, classes))
    if weights:
        config = replace(config, preprocessing=pretrained_preprocessing(config.preprocessing, config.backbone, weights))
    network = _checked(lambda: build_detector(config))
    if weights:
        print(f"tinydet: {load_pretrained(network, weights)}", file=sys.stderr)
    return network


def _schedule(
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

    return _checked(
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


def _run(
    step: Any,
    selection: Any,
    schedule: Schedule,
    out: Path,
    flip: float,
    jitter: str | None,
    validate_every: int | None,
    protocol: str,
    seed: int,
    device: str,
    validated: bool = True,
) -> TrainingResult:
    from tinydet.data.loader import make_loader
    from tinydet.data.transforms import AugmentConfig
    from tinydet.datasets import usable_samples
    from tinydet.training.loop import train as train_loop
    from tinydet.training.validation import Validate

    samples: tuple[Sample, ...] = usable_samples(selection.dataset, selection.train)
    tested = usable_samples(selection.dataset, selection.test)
    sides = tuple(int(side) for side in numbers("jitter", jitter) or ())
    augment = _checked(lambda: AugmentConfig(flip, sides))
    loader = make_loader(samples, step.detector.config.preprocessing, schedule.batch_size, augment, seed)
    name = one_of("protocol", protocol, "voc07", "voc", "coco")
    validate = Validate(tested, selection.dataset.classes, name) if validated else None
    every = validate_every or max(1, schedule.iterations // 10)
    return train_loop(
        step, loader, schedule, out, validate=validate, validate_every=every, device=_device(device), title=out.name
    )


def _finish(result: TrainingResult, json_file: Path | None) -> None:
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
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{what} {text!r}: expected numbers with commas between, such as 0.5,1,2") from error


def one_of(what: str, value: str, *allowed: str) -> Any:
    if value not in allowed:
        raise InputError(f"{what} {value!r}: expected one of {', '.join(allowed)}")
    return value


def _device(value: str) -> Any:
    return one_of("device", value, "auto", "cpu", "cuda")


def _checked(make: Any) -> Any:
    """What `make` gives; a configuration that refuses its values is the user's mistake."""
    try:
        return make()
    except ValueError as error:
        raise InputError(str(error)) from error
