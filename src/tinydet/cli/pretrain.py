"""`tinydet pretrain`: backbone weights from an image-folder data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tinydet.cli import app
from tinydet.errors import InputError


@app.command()
def pretrain(
    data: Annotated[Path, typer.Option(metavar="DIR", help="A folder of images for each class; or train/ and val/.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The run's folder; the same command goes on there.")],
    backbone: Annotated[str, typer.Option(help="resnet18, resnet50, vgg16 or mobilenet_v1.")] = "resnet18",
    width: Annotated[float, typer.Option(metavar="N", help="Every layer's channels are divided by N.")] = 1.0,
    gray: Annotated[bool, typer.Option("--gray", help="One input channel.")] = False,
    norm: Annotated[str, typer.Option(help="Batch normalization: batch, or none (vgg16).")] = "batch",
    size: Annotated[int, typer.Option(metavar="PIXELS", help="Every image is resized to a square of this side.")] = 224,
    region_size: Annotated[
        int, typer.Option(metavar="N", help="Cells that vgg16's fc6 takes along each side; the detector's bins.")
    ] = 7,
    weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="Start from these weights: a file, a URL, or `imagenet`.")
    ] = None,
    iterations: Annotated[int, typer.Option(metavar="N", help="Optimizer steps.")] = 20_000,
    learning_rate: Annotated[float, typer.Option(metavar="X", help="After the warm-up.")] = 0.05,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images a step.")] = 64,
    weight_decay: Annotated[float, typer.Option(metavar="X", help="Of all weights.")] = 0.0001,
    flip: Annotated[float, typer.Option(metavar="P", help="Probability of mirroring; 0 for texts and digits.")] = 0.5,
    least_crop: Annotated[
        float, typer.Option(metavar="SHARE", help="Images are seen through windows of this side and more; 1: whole.")
    ] = 0.6,
    validation_share: Annotated[
        float, typer.Option(metavar="SHARE", help="Of the images, where there is no val/ folder.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(metavar="N", help="Of weights, split, order and augmentation.")] = 0,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(metavar="BITS", help="32, bf16 or 16.")] = "32",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")] = None,
) -> None:
    """Train a backbone of any width to classify images; `train` and `mimic` start from it with `--weights`.

    `tinydet pretrain --data imagenet/ --backbone resnet18 --width 16 --out runs/resnet18-1-16`

    `tinydet mimic ... --backbone resnet18 --width 16 --weights runs/resnet18-1-16/weights.safetensors`
    """
    from tinydet.cli.option_values import one_of
    from tinydet.cli.progress import track
    from tinydet.data.loader import make_loader
    from tinydet.data.transforms import AugmentConfig
    from tinydet.datasets.faults import in_words
    from tinydet.datasets.image_folder import open_image_folder
    from tinydet.files import write_json
    from tinydet.pretraining import ClassificationConfig, ClassificationStep, ValidateAccuracy, save_backbone
    from tinydet.training.checkpoint import load_weights
    from tinydet.training.loop import train
    from tinydet.training.schedule import Schedule

    chosen_device = one_of("device", device, "auto", "cpu", "cuda")
    chosen_precision = one_of("precision", precision, "32", "bf16", "16")
    dataset = open_image_folder(data, seed, validation_share, track)
    if dataset.faults:
        print(f"tinydet: warning: {in_words(dataset.faults)}: skipped; first: {dataset.faults[0]}", file=sys.stderr)
    classifier = _classifier(dataset.classes, backbone, width, norm, gray, size, region_size, weights, seed)
    try:
        schedule = Schedule(
            iterations,
            learning_rate,
            milestones=(0.5, 0.8),
            warmup_iterations=min(500, iterations // 20),
            weight_decay=weight_decay,
            batch_size=batch_size,
            precision=chosen_precision,
        )
        augment, learning = AugmentConfig(flip), ClassificationConfig(least_crop)
    except ValueError as error:
        raise InputError(str(error)) from error
    training, validation = dataset.split("train"), dataset.split("val")
    loader = make_loader(training, classifier.config.preprocessing, batch_size, augment, seed)
    validate = ValidateAccuracy(validation)
    result = train(
        ClassificationStep(classifier, learning),
        loader,
        schedule,
        out,
        validate=validate,
        validate_every=max(1, iterations // 10),
        device=chosen_device,
        title=out.name,
    )
    load_weights(classifier, result.checkpoint)
    accuracy = result.metrics["accuracy"]
    weights_file = out / "weights.safetensors"
    save_backbone(weights_file, classifier, accuracy)
    skipped = len(dataset.faults) + len(loader.skipped) + len(validate.skipped)
    print(
        f"{weights_file}: accuracy {accuracy:.4f} on {result.metrics['images']} images of {len(dataset.classes)} "
        f"classes, trained on {len(training) - len(loader.skipped)}; {skipped} images could not be read"
    )
    if json_file is not None:
        figures = {"weights": str(weights_file), "skipped": skipped, "steps": result.steps, "metrics": result.metrics}
        write_json(json_file, figures)


def _classifier(
    classes: tuple[str, ...],
    backbone: str,
    width: float,
    norm: str,
    gray: bool,
    size: int,
    region_size: int,
    weights: str | None,
    seed: int,
) -> Any:
    from dataclasses import replace

    import torch

    from tinydet.backbones.pretrained import load_pretrained, pretrained_preprocessing
    from tinydet.cli.option_values import one_of
    from tinydet.detectors.choice import DetectorChoice, backbone_config
    from tinydet.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
    from tinydet.pretraining import Classifier, ClassifierConfig

    if width <= 0 or size < 16 or region_size < 1:
        raise InputError(
            f"width {width:g} must be above 0, size {size} at least 16, region size {region_size} at least 1"
        )
    choice = DetectorChoice(
        backbone=one_of("backbone", backbone, "resnet18", "resnet50", "vgg16", "mobilenet_v1"),
        width=width,
        normalization=one_of("norm", norm, "batch", "frozen", "none"),
    )
    preprocessing = Preprocessing(fixed_size_hw=(size, size))
    if gray:
        mean, std = sum(IMAGENET_MEAN) / 3, sum(IMAGENET_STD) / 3
        preprocessing = replace(preprocessing, channels="gray", mean=(mean,), std=(std,))
    config = backbone_config(choice)
    if weights is not None:
        preprocessing = pretrained_preprocessing(preprocessing, config, weights)
    torch.manual_seed(seed)
    try:
        classifier = Classifier(ClassifierConfig(classes, config, preprocessing, region_size))
    except ValueError as error:
        raise InputError(str(error)) from error
    if weights is not None:
        print(f"tinydet: {load_pretrained(classifier, weights)}", file=sys.stderr)
    return classifier
