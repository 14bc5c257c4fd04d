"""`tinydet score`: metrics of detections made elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinydet.cli import app
from tinydet.errors import InputError

if TYPE_CHECKING:
    from tinydet.evaluation import EvaluationResult
    from tinydet.records import Dataset

_DEFAULT_SPLITS = ("test", "val", "all")


class ProtocolName(StrEnum):
    """The choices of `--protocol`."""

    voc07 = "voc07"
    voc = "voc"
    coco = "coco"
    wider = "wider"


@app.command()
def score(
    detections: Annotated[
        Path,
        typer.Option(
            help="COCO results (.json), a folder with VOC's `comp4_det_SET_CLASS.txt`, or a WIDER FACE text folder."
        ),
    ],
    protocol: Annotated[
        ProtocolName,
        typer.Option(help="voc07: 11 points, IoU 0.5. voc: area, IoU 0.5. coco: COCO's twelve. wider: three subsets."),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="The labelled data set; not needed by `wider`.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="By default test, else val, else all.")] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="wider: the folder of wider_face_val.mat and wider_easy_val.mat, medium, hard."
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")] = None,
) -> None:
    """Measure detections made elsewhere.

    Images are matched by id, file name or stem. Category n of COCO results is the category of that id in a COCO data
    set, the n-th class of any other.

    Examples:

    `tinydet score --detections results.json --data ~/coco --split val --protocol coco`

    `tinydet score --detections results/VOC2007/Main --data ~/VOCdevkit/VOC2007 --protocol voc07 --json score.json`

    `tinydet score --detections ~/widerface_txt --protocol wider --ground-truth ~/eval_tools/ground_truth`
    """
    if protocol is ProtocolName.wider:
        result, about = _score_wider(detections, data, ground_truth)
    else:
        result, about = _score_split(detections, data, split, protocol.value, ground_truth)
    for note in about["notes"]:
        typer.echo(f"warning: {note}", err=True)
    show_result(result)
    if json_file is not None:
        from tinydet.files import write_json

        write_json(json_file, {**result.as_json(), "detections": str(detections), **about})


def _score_wider(
    detections: Path, data: str | None, ground_truth: Path | None
) -> tuple[EvaluationResult, dict[str, Any]]:
    from tinydet.evaluation import evaluate, read_detections
    from tinydet.evaluation.wider_face import FACES_FILE, read_ground_truth

    folder = ground_truth
    if folder is None and data is not None:  # beside the images, as the set's archives unpack
        places = (Path(data), Path(data) / "ground_truth", Path(data) / "eval_tools" / "ground_truth")
        folder = next((place for place in places if (place / FACES_FILE).is_file()), None)
    if folder is None:
        raise InputError(f"--protocol wider needs --ground-truth DIR, the folder that holds {FACES_FILE}")
    names = read_ground_truth(folder)
    read = read_detections(detections, ("face",), names)
    result = evaluate((), read.detections, ("face",), "wider", folder)
    return result, {"ground_truth": str(folder), "images": len(names), "notes": list(read.notes)}


def _score_split(
    detections: Path, data: str | None, split: str | None, protocol: Any, ground_truth: Path | None
) -> tuple[EvaluationResult, dict[str, Any]]:
    from tinydet.cli.progress import track
    from tinydet.datasets import open_dataset
    from tinydet.evaluation import evaluate, read_detections

    if data is None:
        raise InputError(f"--protocol {protocol} needs --data DATA, the labelled data set")
    if ground_truth is not None:
        raise InputError("--ground-truth is of --protocol wider; elsewhere --data holds the ground truth")
    if not detections.exists():
        raise InputError(f"--detections {detections}: there is no such file or folder")
    dataset = open_dataset(data, None, track)
    name = split or choose_split(dataset)
    samples = dataset.split(name)
    if not samples:
        raise InputError(f"{data}: split {name!r} has no usable image; look at it with `tinydet data check {data}`")
    ids = [sample.image_id for sample in samples]
    read = read_detections(detections, dataset.classes, ids, _category_labels(detections, data, dataset))
    result = evaluate(samples, read.detections, dataset.classes, protocol)
    notes = list(read.notes)
    if dataset.faults:
        notes.append(f"{data}: {len(dataset.faults)} faults; what is faulty is left out (see `tinydet data check`)")
    return result, {"data": data, "split": name, "images": len(samples), "notes": notes}


def choose_split(dataset: Dataset) -> str:
    """The first of test, val and all that the data set has."""
    for name in _DEFAULT_SPLITS:
        if name in dataset.splits:
            return name
    raise InputError(f"{dataset.name} has none of {', '.join(_DEFAULT_SPLITS)}; --split: {', '.join(dataset.splits)}")


def _category_labels(detections: Path, data: str, dataset: Dataset) -> dict[int, int] | None:
    """COCO's own category ids, which records do not keep."""
    from tinydet.datasets.coco import find_files
    from tinydet.evaluation.coco_results import category_labels

    if detections.suffix.lower() != ".json" or not (place := Path(data).expanduser()).exists():
        return None
    files = find_files(place) if place.is_dir() else [place] if place.suffix.lower() == ".json" else []
    return category_labels(files, dataset.classes) or None


def show_result(result: EvaluationResult) -> None:
    """Print the metrics, and the AP of each class."""
    for name, value in result.metrics.items():
        typer.echo(f"{name:<10} {_in_words(value)}")
    rows = result.per_class
    width = max((len(name) for name in rows), default=0)
    if rows:
        typer.echo(f"\n{'class':<{width}}  AP       objects")
    for name, value in rows.items():
        typer.echo(f"{name:<{width}}  {_in_words(value):<7}  {result.objects[name]}")


def _in_words(value: float) -> str:
    return f"{value:.5f}" if value == value else "-"
