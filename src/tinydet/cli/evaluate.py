"""`tinydet evaluate`: a detector on a labelled data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinydet.cli import app
from tinydet.cli.score import ProtocolName
from tinydet.errors import InputError

if TYPE_CHECKING:
    from tinydet.loading import AnyDetector
    from tinydet.records import Detections, Sample


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A checkpoint's folder, an .onnx or a .tinydet file.")],
    data: Annotated[str, typer.Option(metavar="DATA", help="The labelled data set.")],
    protocol: Annotated[
        ProtocolName,
        typer.Option(help="voc07: 11 points, IoU 0.5. voc: area, IoU 0.5. coco: COCO's twelve. wider: three subsets."),
    ],
    split: Annotated[str | None, typer.Option(help="By default test, else val, else all.")] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="wider: the folder of wider_face_val.mat and its three subsets."),
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or openvino; a checkpoint runs in torch.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the engine; all cores by default.")] = None,
    device: Annotated[str, typer.Option(help="For a checkpoint: cpu or cuda.")] = "cpu",
    detections: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the detections, as `tinydet score` reads them.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")] = None,
) -> None:
    """Detect in every image of a split and measure.

    Images are resized as in training, by Pillow. Classes are matched by name.

    Examples:

    `tinydet evaluate student.tinydet --data ~/VOCdevkit/VOC2007 --split test --protocol voc07`

    `tinydet evaluate runs/student --data ~/coco --split val --protocol coco --json result.json`
    """
    from tinydet.cli.progress import track
    from tinydet.cli.score import choose_split, show_result
    from tinydet.datasets import open_dataset
    from tinydet.evaluation import evaluate as measure
    from tinydet.loading import detector_for

    dataset = open_dataset(data, None, track)
    name = split or choose_split(dataset)
    samples = dataset.split(name)
    if not samples:
        raise InputError(f"{data}: split {name!r} has no usable image; look at it with `tinydet data check {data}`")
    if dataset.faults:
        typer.echo(f"warning: {data}: {len(dataset.faults)} faults; what is faulty is left out", err=True)
    if protocol is ProtocolName.wider and ground_truth is None:
        raise InputError("--protocol wider needs --ground-truth DIR, the folder that holds wider_face_val.mat")
    wanted: Any = engine
    detector = detector_for(model, wanted, threads, device, resizing="exact")
    found = detect_all(detector, samples, dataset.classes)
    result = measure(samples, found, dataset.classes, protocol.value, ground_truth)
    show_result(result)
    if detections is not None:
        from tinydet.evaluation import write_detections

        write_detections(detections, found, dataset.classes, protocol.value, name)
    if json_file is not None:
        from tinydet.files import write_json

        about = {"model": str(model), "engine": detector.engine, "data": data, "split": name, "images": len(samples)}
        write_json(json_file, {**result.as_json(), **about})


def detect_all(detector: AnyDetector, samples: Sequence[Sample], classes: tuple[str, ...]) -> dict[str, Detections]:
    """Detections by image id, with the data set's labels; an image that cannot be read is a warning and has none."""
    import numpy as np

    from tinydet.cli.progress import track
    from tinydet.records import Detections

    known = [classes.index(name) if name in classes else -1 for name in detector.classes]
    if missing := [name for name in classes if name not in detector.classes]:
        typer.echo(f"warning: the detector does not know the data set's {', '.join(missing)}", err=True)
    if all(label < 0 for label in known):
        raise InputError(
            f"no class in common: the detector knows {', '.join(detector.classes)}; the data set has "
            f"{', '.join(classes)}"
        )
    label_of = np.array(known, np.int64)
    found: dict[str, Detections] = {}
    for sample in track(samples, len(samples), "detecting"):
        try:
            detections = detector(sample.open_image())
        except InputError as error:
            typer.echo(f"warning: {error}", err=True)
            continue
        labels = label_of[detections.labels]
        kept = labels >= 0
        found[sample.image_id] = Detections(detections.boxes_xyxy[kept], detections.scores[kept], labels[kept])
    if not found:
        raise InputError(f"none of the {len(samples)} images could be read")
    return found
