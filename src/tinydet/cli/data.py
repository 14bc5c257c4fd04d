"""`tinydet data`: look at a data set, split it, convert it, fetch a public one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinydet.cli import app
from tinydet.cli.progress import track
from tinydet.errors import InputError

if TYPE_CHECKING:
    from tinydet.records import Dataset

data_app = typer.Typer(
    help="Look at a data set before training: check, stats, split, convert, download.", no_args_is_help=True
)
app.add_typer(data_app, name="data")

DataPath = Annotated[
    str, typer.Argument(metavar="DATA", help="VOC, COCO, YOLO or WIDER FACE folder or file; or `digits`")
]
Classes = Annotated[str | None, typer.Option(help="Class names to take, with commas; others are faults.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
Link = Annotated[bool, typer.Option("--link", help="Hard-link the images instead of copying them.")]


def _open(path: str, classes: str | None = None) -> Dataset:
    from tinydet.datasets import open_dataset

    names = [name.strip() for name in classes.split(",") if name.strip()] if classes is not None else None
    return open_dataset(path, names, track)


def _write_json(path: Path | None, value: Any) -> None:
    from tinydet.files import write_json

    if path is not None:
        write_json(path, value)


def _note_faults(dataset: Dataset) -> None:
    from tinydet.datasets.faults import in_words

    if dataset.faults:
        count = len(dataset.faults)
        typer.echo(f"warning: {count} faults ({in_words(dataset.faults)}); what is faulty is left out", err=True)


@data_app.command()
def check(path: DataPath, classes: Classes = None, json_file: JsonFile = None) -> None:
    """Report every fault with its file and line; decodes every image.

    Exit status: 0 without faults, 1 with faults, 2 where nothing can be read.

    Example: `tinydet data check ~/my_images --json faults.json`
    """
    from tinydet.datasets import check_dataset
    from tinydet.datasets.faults import counts_by_kind, in_words

    dataset = _open(path, classes)
    faults = check_dataset(dataset, track)
    for fault in faults:
        typer.echo(str(fault))
    splits = {name: len(samples) for name, samples in dataset.splits.items()}
    objects = sum(len(s.annotations) for s in {s.image_id: s for v in dataset.splits.values() for s in v}.values())
    typer.echo(
        f"{dataset.name}: {', '.join(f'{name} {count}' for name, count in splits.items())} images; {objects} boxes; "
        f"classes: {', '.join(dataset.classes)}"
    )
    typer.echo(f"{len(faults)} faults: {in_words(faults)}" if faults else "no faults")
    _write_json(
        json_file,
        {
            "path": path,
            "classes": list(dataset.classes),
            "images_by_split": splits,
            "boxes": objects,
            "faults_by_kind": counts_by_kind(faults),
            "faults": [{"kind": f.kind, "path": str(f.path), "line": f.line, "message": f.message} for f in faults],
        },
    )
    if faults:
        raise typer.Exit(1)


@data_app.command()
def stats(
    path: DataPath,
    classes: Classes = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the distributions.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Counts of each class and split, sizes and shapes of boxes, sizes of images.

    Example: `tinydet data stats digits --plot digits.png`
    """
    from rich.console import Console

    from tinydet.datasets import dataset_statistics
    from tinydet.datasets.statistics import plot_statistics, print_statistics

    dataset = _open(path, classes)
    _note_faults(dataset)
    statistics = dataset_statistics(dataset)
    print_statistics(statistics, Console())
    if plot is not None:
        plot_statistics(dataset, plot)
        typer.echo(f"drawn: {plot}")
    _write_json(json_file, statistics.as_dict())


@data_app.command()
def split(
    path: DataPath,
    fractions: Annotated[str, typer.Option(help="Share of each split, with commas; they sum to 1.")] = "0.8,0.2",
    names: Annotated[str | None, typer.Option(help="Names of the splits; else train, val, and test if three.")] = None,
    of: Annotated[str | None, typer.Option(help="Divide this split only; else all images are pooled.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same splits.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write a copy here; else only lists, beside the data.")] = None,
    layout: Annotated[str | None, typer.Option(help="Layout of the copy: voc, coco or yolo.")] = None,
    link: Link = False,
    force: Force = False,
    json_file: JsonFile = None,
) -> None:
    """Split by seed: lists beside the data in its own layout, or a copy of the set with `--out`.

    Example: `tinydet data split ~/my_images --fractions 0.7,0.15,0.15`

    Example: `tinydet data split ~/my_images --out ~/my_set --layout yolo --link`
    """
    from tinydet.datasets import convert_dataset, split_dataset, write_splits
    from tinydet.datasets.open import find_source, is_digits
    from tinydet.datasets.split import DEFAULT_NAMES

    if layout is not None and out is None:
        raise InputError("--layout is that of a copy: give --out FOLDER too")
    parts = _numbers(fractions)
    dataset = _open(path)
    _note_faults(dataset)
    new = [name.strip() for name in names.split(",")] if names is not None else DEFAULT_NAMES.get(len(parts), ())
    divided = split_dataset(dataset, parts, seed, new, of)
    if out is not None:
        same = "voc" if is_digits(path) or (found := find_source(path).layout) == "wider" else found
        convert_dataset(divided, layout or same, out, link=link, overwrite=force, track=track)  # type: ignore[arg-type]
        written = [out]
    elif is_digits(path):
        raise InputError("the built-in set has no files to put splits beside; give --out FOLDER")
    else:
        written = write_splits(divided, find_source(path), new, overwrite=force)
    counts = {name: len(divided.splits[name]) for name in new}
    typer.echo(f"{dataset.name}: {', '.join(f'{name} {count}' for name, count in counts.items())} images")
    for file in written:
        typer.echo(f"written: {file}")
    _write_json(
        json_file, {"path": path, "seed": seed, "images_by_split": counts, "written": [str(f) for f in written]}
    )


def _numbers(text: str) -> list[float]:
    try:
        return [float(value) for value in text.split(",")]
    except ValueError as error:
        raise InputError(f"--fractions {text}: expected numbers with commas, such as 0.8,0.2") from error


@data_app.command()
def convert(
    path: DataPath,
    layout: Annotated[str, typer.Option("--to", help="voc, coco or yolo.")],
    out: Annotated[Path, typer.Option(help="The folder to write; it appears whole or not at all.")],
    classes: Classes = None,
    link: Link = False,
    force: Force = False,
    json_file: JsonFile = None,
) -> None:
    """Write the set in another layout, with every box and class, and the flags that the layout has a place for.

    Example: `tinydet data convert VOCdevkit --to coco --out voc_as_coco --link`
    """
    from tinydet.datasets import convert_dataset

    dataset = _open(path, classes)
    _note_faults(dataset)
    done = convert_dataset(dataset, layout, out, link=link, overwrite=force, track=track)  # type: ignore[arg-type]
    for flag, count in done.lost.items():
        typer.echo(
            f"warning: {layout} has no place for {flag} flags: {count} are not written (their boxes are)", err=True
        )
    typer.echo(f"written: {done.out}: {done.images} images, {done.boxes} boxes, {len(dataset.classes)} classes")
    _write_json(json_file, done.as_dict())


@data_app.command()
def download(
    name: Annotated[str, typer.Argument(help="voc2007, voc2012 or wider")],
    out: Annotated[Path, typer.Option(help="The folder to unpack into.")] = Path("data"),
    url: Annotated[str | None, typer.Option(help="A mirror's folder that holds the same files.")] = None,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="Keep the archives after unpacking.")] = False,
) -> None:
    """Fetch a public data set over HTTPS; carries on where it stopped, checks the published checksums.

    Example: `tinydet data download voc2007 --out ~/data`
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from tinydet.datasets.download import download_dataset

    text = TextColumn("{task.description}")
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, Any] = {}

        def advance(file: str, done_bytes: int, total_bytes: int | None) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file)
            progress.update(tasks[file], completed=done_bytes, total=total_bytes)

        folder = download_dataset(name, out, url=url, keep_archives=keep_archives, advance=advance)
    typer.echo(f"written: {folder}; look at it with `tinydet data check {folder}`")
