"""`tinydet benchmark`: what detectors cost, side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinydet.cli import app
from tinydet.cli.score import ProtocolName
from tinydet.errors import InputError

if TYPE_CHECKING:
    from tinydet.benchmark import ModelFigures

_PICTURES = (".png", ".svg", ".pdf")


@app.command()
def benchmark(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Checkpoints, .onnx and .tinydet files.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images to time on; else those of --data, else two photographs.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="Measure accuracy too, on this data set.")] = None,
    split: Annotated[str | None, typer.Option(help="Of --data; by default test, else val, else all.")] = None,
    protocol: Annotated[ProtocolName, typer.Option(help="Of the accuracy: voc07, voc or coco.")] = ProtocolName.voc07,
    count: Annotated[int, typer.Option(min=1, help="Images to time on, evenly spread over those given.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Each model runs each image once a round.")] = 20,
    threads: Annotated[str, typer.Option(metavar="N,M", help="Numbers of threads to measure.")] = "1",
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or openvino, for exported files.")] = "auto",
    unlike: Annotated[
        bool, typer.Option("--unlike", help="Allow models with other classes, inputs or proposals side by side.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --data: accuracy against latency and size, .png or .svg.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")] = None,
) -> None:
    """Bytes on disk, multiply-adds, milliseconds by stage, start time and memory, side by side.

    Every model runs once in each round, so that what else the machine does falls on all alike. Start time and peak
    memory are of new processes: import, load, first image.

    Examples:

    `tinydet benchmark student.tinydet student.onnx runs/student --threads 1,4`

    `tinydet benchmark teacher.onnx student.onnx --data ~/VOCdevkit/VOC2007 --split test --plot tradeoff.png --unlike`
    """
    from rich.console import Console

    from tinydet.benchmark import BenchmarkConfig, machine_plain
    from tinydet.benchmark import benchmark as measure

    if plot is not None and data is None:
        raise InputError("--plot shows accuracy, so it needs --data")
    if plot is not None and plot.suffix.lower() not in _PICTURES:
        raise InputError(f"--plot {plot}: expected a name that ends in {', '.join(_PICTURES)}")
    config = BenchmarkConfig(rounds, _numbers(threads), engine, unlike)
    console = Console(stderr=True)
    samples, classes = _samples(data, split)
    with console.status("benchmark", spinner="line") as status:
        figures = measure(models, _images(images, samples, count), config, lambda what: status.update(what))
    if samples:
        figures = [_with_accuracy(one, samples, classes, protocol, config) for one in figures]
    _show(figures)
    if plot is not None:
        _plot(figures, plot)
    if json_file is not None:
        from tinydet.files import write_json

        write_json(json_file, {**machine_plain(), "models": [one.as_plain() for one in figures]})


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise InputError(f"--threads {text}: expected numbers from 1, such as 1,4")
    return numbers


def _samples(data: str | None, split: str | None) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    if data is None:
        return (), ()
    from tinydet.cli.score import choose_split
    from tinydet.datasets import open_dataset

    dataset = open_dataset(data)
    samples = dataset.split(split or choose_split(dataset))
    if not samples:
        raise InputError(f"{data}: no usable image; look at it with `tinydet data check {data}`")
    return samples, dataset.classes


def _images(folder: Path | None, samples: tuple[Any, ...], count: int) -> list[Path]:
    from tinydet.runtime.sources import images_in

    if folder is not None:
        if not folder.exists():
            raise InputError(f"--images {folder}: there is no such folder or file")
        found = images_in(folder) if folder.is_dir() else [folder]
    else:
        found = [sample.image for sample in samples if isinstance(sample.image, Path)]
    if not found and folder is None:
        try:
            import sklearn.datasets
        except ImportError:
            raise InputError("a benchmark needs images: --images DIR, or --data") from None
        found = images_in(Path(sklearn.datasets.__file__).parent / "images")
    if not found:
        raise InputError(f"--images {folder}: there is no image in this folder")
    return found[:: max(1, len(found) // count)][:count]


def _with_accuracy(
    figures: ModelFigures, samples: tuple[Any, ...], classes: tuple[str, ...], protocol: ProtocolName, config: Any
) -> ModelFigures:
    from tinydet.cli.evaluate import detect_all
    from tinydet.evaluation import evaluate
    from tinydet.loading import detector_for

    if protocol is ProtocolName.wider:
        raise InputError("--protocol wider is measured by `tinydet evaluate`; here voc07, voc or coco")
    kind: Any = protocol.value
    detector = detector_for(figures.path, config.engine, max(config.threads), resizing="exact")
    found = detect_all(detector, samples, classes)
    return dataclasses.replace(figures, accuracy=evaluate(samples, found, classes, kind).metrics)


def _show(figures: list[ModelFigures]) -> None:
    from rich.console import Console
    from rich.table import Table

    from tinydet.benchmark import STAGES

    table = Table(title="milliseconds: median (first to third quartile)")
    table.add_column("")
    for one in figures:
        table.add_column(f"{Path(one.path).name}\n{one.engine}", justify="right")
    rows: list[tuple[str, list[str]]] = [
        ("bytes on disk", [f"{one.file_bytes:,}" for one in figures]),
        ("parameters", [f"{one.description.parameters:,}" for one in figures]),
        ("multiply-adds", [_millions(one.description.multiply_adds) for one in figures]),
    ]
    for threads in figures[0].times:
        for stage in STAGES:
            cells = [one.times[threads][stage] for one in figures]
            texts = [f"{cell.median_ms:.2f} ({cell.low_ms:.2f} to {cell.high_ms:.2f})" for cell in cells]
            rows.append((f"{stage}, {threads} thread{'s' * (threads > 1)}", texts))
    rows.append(("start to first detections", ["-" if x.start_ms is None else f"{x.start_ms:.0f} ms" for x in figures]))
    memory = [x.peak_memory_bytes for x in figures]
    rows.append(("peak memory", ["-" if x is None else f"{x / 2**20:.0f} MiB" for x in memory]))
    rows.append(("detections", [str(one.detections) for one in figures]))
    for name in figures[0].accuracy:
        rows.append((name, [f"{one.accuracy[name]:.4f}" for one in figures]))
    for name, cells_of_row in rows:
        table.add_row(name, *cells_of_row)
    Console().print(table)


def _millions(multiply_adds: int) -> str:
    """A file may come from elsewhere and not say."""
    return f"{multiply_adds / 1e6:,.{0 if multiply_adds >= 1e7 else 2}f} M" if multiply_adds else "-"


def _plot(figures: list[ModelFigures], path: Path) -> None:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
        from matplotlib.ticker import LogFormatter
    except ImportError as error:
        from tinydet.errors import MissingExtraError

        raise MissingExtraError("--plot", "plots") from error
    from tinydet.files import replacing

    name = next(iter(figures[0].accuracy))
    threads = next(iter(figures[0].times))
    picture, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for one in figures:
        label = Path(one.path).name
        places = (one.times[threads]["total"].median_ms, one.file_bytes / 1e6)
        for axis, place in zip(axes, places):
            axis.scatter(place, one.accuracy[name])
            axis.annotate(label, (place, one.accuracy[name]), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes[0].set(xlabel=f"ms an image, {threads} thread{'s' * (threads > 1)}", ylabel=name, xscale="log")
    axes[1].set(xlabel="MB on disk", xscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.margins(0.2)
        axis.xaxis.set_major_formatter("{x:g}")  # 20, not 2 x 10^1
        axis.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    with replacing(path) as temporary:
        picture.savefig(temporary, dpi=150, format=path.suffix[1:].lower())
    pyplot.close(picture)
