"""`tinydet quantize`: a checkpoint to one int8 file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinydet.cli import app
from tinydet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tinydet.int8 import QuantizeReport
    from tinydet.records import Sample

AWARE = "Fine-tuning"


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="A checkpoint's folder, or a run's.")],
    data: Annotated[str, typer.Option(metavar="DATA", help="The labelled data set: to calibrate, and to test.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write: .tinydet or .onnx.")],
    calibration_images: Annotated[
        int, typer.Option(min=1, metavar="N", help="Of the training split, evenly spread.")
    ] = 64,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, metavar="AP", help="Nothing is written where AP falls by more.")
    ] = 0.01,
    calibration: Annotated[
        str, typer.Option(metavar="METHOD", help="Ranges of activations: minmax, percentile or entropy.")
    ] = "minmax",
    percentile: Annotated[
        float, typer.Option(metavar="P", help="Of 100: what --calibration percentile keeps.")
    ] = 99.99,
    weight_bits: Annotated[
        int, typer.Option(min=7, max=8, help="7: smaller, and safe on processors without VNNI; 8: finer.")
    ] = 7,
    protocol: Annotated[str, typer.Option(metavar="NAME", help="voc, voc07 (AP at IoU 0.5) or coco.")] = "voc",
    train_split: Annotated[
        str | None, typer.Option(metavar="NAME", help="To calibrate on; by default the usual.")
    ] = None,
    test_split: Annotated[str | None, typer.Option(metavar="NAME", help="To test on; by default test or val.")] = None,
    aware: Annotated[
        int,
        typer.Option(
            min=0, metavar="ITERATIONS", help="First fine-tune, rounding as int8 does.", rich_help_panel=AWARE
        ),
    ] = 0,
    learning_rate: Annotated[float, typer.Option(metavar="X", rich_help_panel=AWARE)] = 0.001,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", rich_help_panel=AWARE)] = 4,
    seed: Annotated[int, typer.Option(metavar="N", rich_help_panel=AWARE)] = 0,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.", rich_help_panel=AWARE)] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")] = None,
) -> None:
    """Write a checkpoint with weights and activations in int8, after measuring what that costs.

    Activation ranges are taken from images of the training split, each layer is measured in int8 alone, and where AP
    falls too far the layers to blame stay float. The file is tested on the test split, and refused where AP falls by
    more than --tolerance. The fine-tuned checkpoint of --aware is kept beside the file.

    Examples:

    `tinydet quantize runs/student --data ~/photos -o student_int8.tinydet`

    `tinydet quantize runs/student --data ~/photos -o student_int8.tinydet --aware 500 --json figures.json`
    """
    from tinydet.cli.compressible import open_compressible
    from tinydet.cli.training_stage import checked, one_of, open_splits, training_schedule
    from tinydet.compression import KeptCompression
    from tinydet.datasets import usable_samples
    from tinydet.int8 import QuantizeConfig, quantize_detector
    from tinydet.int8.aware import aware_step
    from tinydet.training.steps import DetectionStep

    config = checked(
        lambda: QuantizeConfig(
            one_of("calibration", calibration, "minmax", "percentile", "entropy"),
            percentile,
            7 if weight_bits == 7 else 8,
            tolerance,
        )
    )
    rule = one_of("protocol", protocol, "voc", "voc07", "coco")
    detector, info = open_compressible(model)
    selection = open_splits(data, train_split, test_split)
    if selection.dataset.classes != tuple(detector.config.classes):
        raise InputError(
            f"{model}: detects {', '.join(detector.config.classes)}; {data} has {', '.join(selection.dataset.classes)}"
        )
    train = usable_samples(selection.dataset, selection.train)
    test = usable_samples(selection.dataset, selection.test)
    float_accuracy, history = None, list(info.extra.get("compression", ()))
    if aware:
        float_accuracy = _float_accuracy(detector, test, rule)
        folder = out.with_name(f"{out.stem}_aware")
        augment = _augmentation_of(detector, info)
        schedule = training_schedule(aware, learning_rate, "0.75", 0, batch_size, 10.0, 0.0, "32")
        shared = KeptCompression.of_run(info.extra).did("share")
        step = checked(lambda: aware_step(DetectionStep(detector), config.weight_bits, shared=shared))
        detector = _fine_tuned(step, train, folder, schedule, augment, seed, device, model)
        history.append({"step": "quantization-aware fine-tuning", "iterations": aware, "learning_rate": learning_rate})
    every = max(1, len(train) // calibration_images)
    report = quantize_detector(
        detector,
        out,
        train[::every][:calibration_images],
        test,
        config,
        protocol=rule,
        float_accuracy=float_accuracy,
        metrics=info.metrics,
        run=info.extra,
        compression=history,
        progress=_progress(),
    )
    _show(report)
    if json_file is not None:
        from tinydet.files import write_json

        write_json(json_file, report.as_plain())


def _float_accuracy(detector: Any, test: Sequence[Sample], protocol: Any) -> float:
    from tinydet.training.validation import Validate

    return Validate(test, detector.config.classes, protocol)(detector).score


def _fine_tuned(
    step: Any, train: Sequence[Sample], folder: Path, schedule: Any, augment: Any, seed: int, device: str, model: Path
) -> Any:
    from tinydet.cli.training_stage import one_of
    from tinydet.data.loader import make_loader
    from tinydet.training.checkpoint import fingerprint
    from tinydet.training.loop import train as train_loop

    loader = make_loader(train, step.detector.config.preprocessing, schedule.batch_size, augment, seed)
    chosen = one_of("device", device, "auto", "cpu", "cuda")
    origin = {"start": fingerprint(model)}
    train_loop(step, loader, schedule, folder, device=chosen, origin=origin, title="fine-tuning for int8")
    return step.detector.cpu()


def _augmentation_of(detector: Any, info: Any) -> Any:
    """How the checkpoint's training images were varied; where it does not say, never mirrored: text must not be."""
    from tinydet.cli.training_stage import augmentation
    from tinydet.config import from_plain
    from tinydet.data.transforms import Augment

    plain = info.extra.get("training", {}).get("data", {}).get("augment")
    if plain is None:
        return augmentation(detector, 0.0, None, None)
    kind: Any = Augment
    return from_plain(kind, plain, info.folder / "config.json")


def _progress() -> Callable[[str, int, int], None]:
    from rich.console import Console

    console = Console(stderr=True)
    said: list[str] = []

    def show(doing: str, done: int, total: int) -> None:
        if console.is_terminal:
            console.print(f"{doing} {done}/{total}" if total > 1 else doing, end="\r", highlight=False)
        elif said[-1:] != [doing]:
            said.append(doing)
            print(f"tinydet: {doing}", file=sys.stderr)

    return show


def _show(report: QuantizeReport) -> None:
    print(f"{report.path}: {report.int8_bytes:,} bytes, float {report.float_bytes:,}: {_ratio(report):.3f} of it")
    print(
        f"AP ({report.protocol}, {report.test_images} test images): int8 {report.int8_accuracy:.4f}, float "
        f"{report.float_accuracy:.4f}, {report.int8_accuracy - report.float_accuracy:+.4f}"
    )
    choice = report.choice
    print(
        f"AP ({report.calibration_images} calibration images): all int8 {choice.all_int8_accuracy:.4f}, as written "
        f"{choice.accuracy:.4f}, float {choice.float_accuracy:.4f}"
    )
    for engine, (float_ms, int8_ms) in report.latency_ms.items():
        print(f"{engine}, one thread, network alone: int8 {int8_ms:.2f} ms, float {float_ms:.2f} ms")
    widest = max(len(row.layer) for row in report.layers)
    print(f"{'layer':{widest}}  weights  change  stored")
    for row in report.layers:
        stored = f"float: {row.reason}" if row.kept_in_float else "int8"
        print(f"{row.layer:{widest}}  {row.weights:7,}  {row.change:6.4f}  {stored}")


def _ratio(report: QuantizeReport) -> float:
    return report.int8_bytes / report.float_bytes
