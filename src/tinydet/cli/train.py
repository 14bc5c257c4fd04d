"""`tinydet train` and `tinydet mimic`: one stage each, a checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinydet.cli import app
from tinydet.cli.training_options import (
    TEACHING,
    AnchorRatios,
    AnchorSides,
    BackboneName,
    BatchSize,
    ClipNorm,
    Data,
    DefaultBoxes,
    DetectorName,
    Device,
    Ema,
    Flip,
    FrozenBlocks,
    Gray,
    Iterations,
    Jitter,
    JsonFile,
    LearningRate,
    Milestones,
    Norm,
    Out,
    Precision,
    ProtocolName,
    Quantizer,
    Seed,
    ShorterSide,
    SSDAugment,
    SSDHead,
    Start,
    TestSplit,
    TrainSplit,
    ValidateEvery,
    Warmup,
    Weights,
    Width,
)
from tinydet.cli.training_stage import (
    augmentation,
    checked,
    detector_choice,
    one_of,
    open_splits,
    print_result,
    run_stage,
    starting_network,
    training_schedule,
    whole_numbers,
)


@app.command()
def train(
    data: Data,
    out: Out,
    train_split: TrainSplit = None,
    test_split: TestSplit = None,
    detector: DetectorName = "faster_rcnn",
    backbone: BackboneName = "resnet18",
    width: Width = 1.0,
    shorter_side: ShorterSide = None,
    ssd_head: SSDHead = "3x3",
    default_boxes: DefaultBoxes = 1917,
    gray: Gray = False,
    norm: Norm = None,
    frozen_blocks: FrozenBlocks = 0,
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
    ssd_augment: SSDAugment = None,
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

    selection = open_splits(data, train_split, test_split)
    choice = detector_choice(
        detector,
        backbone,
        width,
        shorter_side,
        gray,
        norm,
        anchor_sides,
        anchor_ratios,
        quantizer,
        weights,
        ssd_head,
        default_boxes,
        frozen_blocks,
    )
    network = starting_network(choice, selection.dataset.classes, weights, start, seed)
    schedule = training_schedule(iterations, learning_rate, milestones, warmup, batch_size, clip_norm, ema, precision)
    result = run_stage(
        DetectionStep(network),
        selection,
        schedule,
        out,
        augmentation(network, flip, jitter, ssd_augment),
        validate_every,
        protocol,
        seed,
        device,
    )
    print_result(result, json_file)


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
        str,
        typer.Option(
            metavar="WHOSE", help="teacher or student: whose proposals; or objects.", rich_help_panel=TEACHING
        ),
    ] = "teacher",
    per_entry: Annotated[
        bool,
        typer.Option("--per-entry", help="Divide each distance by its entries (Li et al.).", rich_help_panel=TEACHING),
    ] = False,
    region_size: Annotated[
        int, typer.Option(metavar="N", help="Bins along each side of a pooled region.", rich_help_panel=TEACHING)
    ] = 7,
    maps: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Which of several maps, 0 being the finest; by default all, or those that SSD has for Q.",
            rich_help_panel=TEACHING,
        ),
    ] = None,
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
    shorter_side: ShorterSide = None,
    ssd_head: SSDHead = "3x3",
    default_boxes: DefaultBoxes = 1917,
    gray: Gray = False,
    norm: Norm = None,
    frozen_blocks: FrozenBlocks = 0,
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
    ssd_augment: SSDAugment = None,
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
    from tinydet.distill.frozen import load_teacher
    from tinydet.distill.mimic import MimicConfig
    from tinydet.distill.steps import FeatureMimicStep, MimicStep
    from tinydet.distill.teacher import Teacher

    selection = open_splits(data, train_split, test_split)
    config = checked(
        lambda: MimicConfig(
            weight,
            regions,
            one_of("region source", region_source, "teacher", "student", "objects"),
            region_size,
            per_entry,
            whole_numbers("maps", maps),
        )
    )
    model = load_teacher(teacher, selection.dataset.classes)
    choice = detector_choice(
        detector,
        backbone,
        width,
        shorter_side,
        gray,
        norm,
        anchor_sides,
        anchor_ratios,
        quantizer,
        weights,
        ssd_head,
        default_boxes,
        frozen_blocks,
    )
    student = starting_network(choice, selection.dataset.classes, weights, start, seed)
    schedule = training_schedule(iterations, learning_rate, milestones, warmup, batch_size, clip_norm, ema, precision)
    kind = FeatureMimicStep if features_only else MimicStep
    step = kind(student, Teacher(model, config.regions), config)
    result = run_stage(
        step,
        selection,
        schedule,
        out,
        augmentation(student, flip, jitter, ssd_augment),
        validate_every,
        protocol,
        seed,
        device,
        not features_only,
    )
    print_result(result, json_file)
