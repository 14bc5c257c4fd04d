"""Options that the training verbs share."""

from __future__ import annotations

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
