"""`tinydet export`: a checkpoint to one file that runs without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinydet.cli import app
from tinydet.errors import InputError

if TYPE_CHECKING:
    from tinydet.export import ExportFormat

_SUFFIXES: dict[str, ExportFormat] = {".onnx": "onnx", ".tinydet": "packed"}


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint's folder, or a run's.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write: .onnx or .tinydet.")],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Prove the file on images of this folder (or on one image).")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="Prove it on images of this data set.")] = None,
    split: Annotated[str | None, typer.Option(help="Of --data; by default test, else val, else all.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Images to prove it on, evenly spread over those given.")] = 8,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON.")] = None,
) -> None:
    """Write a checkpoint as one ONNX file or one packed file, from pixels to boxes.

    What the file detects is compared with what the checkpoint detects, on real images; where the two differ, nothing is
    written. Without --images and --data, these are the two photographs that scikit-learn brings.

    Examples:

    `tinydet export runs/student -o student.tinydet --data ~/VOCdevkit/VOC2007 --split test`

    `tinydet export runs/student -o student.onnx --images ~/pictures`
    """
    kind = _SUFFIXES.get(out.suffix.lower())
    if kind is None:
        raise InputError(f"--out {out}: expected a name that ends in {' or '.join(_SUFFIXES)}")
    from tinydet.cli.progress import track
    from tinydet.export import export_detector
    from tinydet.training.checkpoint import load_checkpoint

    detector, info = load_checkpoint(checkpoint)
    pictures = _pictures(images, data, split, count)
    shown = None if pictures is None else track(pictures, len(pictures), "comparing with the checkpoint")
    report = export_detector(
        detector,
        out,
        kind,
        samples=shown,
        metrics=info.metrics,
        run=info.extra,
        compression=info.extra.get("compression", ()),
    )
    typer.echo(str(report))
    if json_file is not None:
        from tinydet.files import write_json

        write_json(json_file, report.as_plain())


def _pictures(images: Path | None, data: str | None, split: str | None, count: int) -> list[Any] | None:
    if images is not None and data is not None:
        raise InputError("--images and --data: only one of them")
    if images is not None:
        from tinydet.runtime.sources import images_in

        if not images.exists():
            raise InputError(f"--images {images}: there is no such folder or file")
        found: list[Any] = images_in(images) if images.is_dir() else [images]
        if not found:
            raise InputError(f"--images {images}: there is no image in this folder")
    elif data is not None:
        from tinydet.cli.score import choose_split
        from tinydet.datasets import open_dataset

        dataset = open_dataset(data)
        found = list(dataset.split(split or choose_split(dataset)))
        if not found:
            raise InputError(f"{data}: no usable image; look at it with `tinydet data check {data}`")
    else:
        return None
    step = max(1, len(found) // count)
    return found[::step][:count]
