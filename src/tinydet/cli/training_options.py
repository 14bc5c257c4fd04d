"""Options that the training verbs share: each by itself, and the records of them that the verbs take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

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
    str, typer.Option(metavar="NAME", help="faster_rcnn, faster_rcnn_fpn, rfcn or ssd.", rich_help_panel=NETWORK)
]
BackboneName = Annotated[
    str, typer.Option(metavar="NAME", help="resnet18, resnet50, vgg16 or mobilenet_v1.", rich_help_panel=NETWORK)
]
Width = Annotated[
    float, typer.Option(metavar="N", help="Every layer's channels are divided by N.", rich_help_panel=NETWORK)
]
ShorterSide = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        help="Images are resized to this shorter side, by default 600; for SSD to this square, by default 300.",
        rich_help_panel=NETWORK,
    ),
]
SSDHead = Annotated[
    str, typer.Option(metavar="KIND", help="SSD's predictors: 3x3, 1x1 or lite.", rich_help_panel=NETWORK)
]
DefaultBoxes = Annotated[
    int, typer.Option(metavar="N", help="SSD's default boxes at 300x300: 1917 or 3000.", rich_help_panel=NETWORK)
]
Gray = Annotated[bool, typer.Option("--gray", help="One input channel.", rich_help_panel=NETWORK)]
Groups = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="vgg16's convolutions in N groups, or depthwise, widened to cost what they did.",
        rich_help_panel=NETWORK,
    ),
]
ClassAgnosticBoxes = Annotated[
    bool | None,
    typer.Option(
        "--class-agnostic-boxes/--class-boxes",
        help="One box a region, or one for each class. By default a box a region in rfcn alone; SSD's are its own.",
        rich_help_panel=NETWORK,
    ),
]
Bins = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Along each side of a pooled region: rfcn [3], the others [7].", rich_help_panel=NETWORK
    ),
]
Hardest = Annotated[
    int | None,
    typer.Option(
        metavar="B",
        help="rfcn: regions of an image that teach, the hardest by their loss (OHEM); 0: drawn by chance. [128]",
        rich_help_panel=NETWORK,
    ),
]
HiddenChannels = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="rfcn: of the convolution before the score maps, at full width; 0: without it. [1024]",
        rich_help_panel=NETWORK,
    ),
]
HiddenKernel = Annotated[
    int | None,
    typer.Option(metavar="K", help="rfcn: that convolution's size; Dai et al. have 1. [3]", rich_help_panel=NETWORK),
]
Norm = Annotated[
    str | None,
    typer.Option(
        metavar="CHOICE",
        help="Batch normalization: batch (trained), frozen, or none. By default frozen from `--weights`, else batch.",
        rich_help_panel=NETWORK,
    ),
]
FrozenBlocks = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="mobilenet_v1's conv1 and first N blocks keep their weights: half the time from `--weights`.",
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
        help="Weights to start from. Of a backbone: safetensors, a torchvision state dict, or `imagenet` to download. "
        "Of a whole faster_rcnn_fpn: torchvision's or Detectron2's file, or `coco` or `detectron2` to download.",
        rich_help_panel=NETWORK,
    ),
]
Start = Annotated[
    Path | None,
    typer.Option(
        metavar="CHECKPOINT",
        help="Start from this detector; the network options are its own. What was pruned or shared stays so.",
        rich_help_panel=NETWORK,
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
SSDAugment = Annotated[
    bool | None,
    typer.Option(
        "--ssd-augment/--no-ssd-augment",
        help="Zoom out, crop, flip and change colours, without --jitter; by default for SSD.",
        rich_help_panel=TRAINING,
    ),
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


@dataclass(frozen=True)
class RunOptions:
    """What a run is on, and where."""

    data: Data
    out: Out
    train_split: TrainSplit = None
    test_split: TestSplit = None
    seed: Seed = 0
    device: Device = "auto"
    json_file: JsonFile = None


@dataclass(frozen=True)
class NetworkOptions:
    """What network is trained, and from what it starts; `typed` are the names of the options that a person gave."""

    detector: DetectorName = "faster_rcnn"
    backbone: BackboneName = "resnet18"
    width: Width = 1.0
    shorter_side: ShorterSide = None
    ssd_head: SSDHead = "3x3"
    default_boxes: DefaultBoxes = 1917
    gray: Gray = False
    groups: Groups = "1"
    class_agnostic_boxes: ClassAgnosticBoxes = None
    bins: Bins = None
    hardest: Hardest = None
    hidden_channels: HiddenChannels = None
    hidden_kernel: HiddenKernel = None
    norm: Norm = None
    frozen_blocks: FrozenBlocks = 0
    anchor_sides: AnchorSides = None
    anchor_ratios: AnchorRatios = None
    quantizer: Quantizer = None
    weights: Weights = None
    start: Start = None
    typed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class StudentOptions(NetworkOptions):
    """A network that is taught: thin unless it is said otherwise."""

    width: Width = 16.0


@dataclass(frozen=True)
class TrainingOptions:
    """How it is trained and measured."""

    iterations: Iterations = 40_000
    learning_rate: LearningRate = 0.001
    milestones: Milestones = "0.75"
    warmup: Warmup = 0
    batch_size: BatchSize = 2
    clip_norm: ClipNorm = 10.0
    ema: Ema = 0.0
    precision: Precision = "32"
    flip: Flip = 0.5
    jitter: Jitter = None
    ssd_augment: SSDAugment = None
    validate_every: ValidateEvery = None
    protocol: ProtocolName = "voc07"
