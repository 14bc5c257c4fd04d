"""Pictures of a run: the same images with the ground truth and with what each variant found.

Kept in the run's folder as `pictures/pictures.json` and one JPEG an image without anything drawn on it; boxes are drawn
when the page is made, so that a reader can still choose the score from which they show.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tinydet.boxes import iou
from tinydet.errors import InputError
from tinydet.files import read_json, replacing_folder, write_json
from tinydet.records import Annotations, Detections, Sample

FOLDER_NAME = "pictures"
LOWEST_SCORE = 0.1
MOST_BOXES = 50


@dataclass(frozen=True, eq=False)
class PictureRow:
    """One image, what is in it, and what each variant (by name) found.

    Attributes:
        jpeg: the image file, at most `longest_side` pixels; boxes are in pixels of the original of `size_hw`.
    """

    image_id: str
    jpeg: Path
    size_hw: tuple[int, int]
    annotations: Annotations
    detections: dict[str, Detections]


@dataclass(frozen=True, eq=False)
class Pictures:
    classes: tuple[str, ...]
    rows: tuple[PictureRow, ...]


def save_pictures(
    run_folder: str | Path,
    samples: Sequence[Sample],
    detections_by_variant: Mapping[str, Sequence[Detections]],
    classes: Sequence[str],
    longest_side: int = 640,
) -> Path:
    """Write the images of `samples` and what each variant found in them, one `Detections` a sample.

    What was there before is replaced. Detections of a score below 0.1, and beyond an image's best 50, are left out.
    """
    for name, detections in detections_by_variant.items():
        if len(detections) != len(samples):
            raise ValueError(f"variant {name!r}: {len(detections)} detections for {len(samples)} samples")
    folder = Path(run_folder) / FOLDER_NAME
    with replacing_folder(folder) as temporary:
        rows = []
        for index, sample in enumerate(samples):
            image = sample.open_image()
            image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
            image.save(temporary / f"{index:03d}.jpg", quality=85, optimize=True)
            found = {name: of_all[index] for name, of_all in detections_by_variant.items()}
            rows.append(_row_to_dict(sample, f"{index:03d}.jpg", found))
        write_json(temporary / "pictures.json", {"classes": list(classes), "rows": rows})
    return folder


def _row_to_dict(sample: Sample, jpeg: str, found: Mapping[str, Detections]) -> dict[str, Any]:
    truth = sample.annotations
    return {
        "image_id": sample.image_id,
        "jpeg": jpeg,
        "size_hw": list(sample.size_hw),
        "annotations": {
            "boxes_xyxy": truth.boxes_xyxy.round(2).tolist(),
            "labels": truth.labels.tolist(),
            "difficult": truth.difficult.tolist(),
            "crowd": truth.crowd.tolist(),
        },
        "detections": {name: _detections_to_dict(d.above(LOWEST_SCORE)[:MOST_BOXES]) for name, d in found.items()},
    }


def _detections_to_dict(detections: Detections) -> dict[str, Any]:
    return {
        "boxes_xyxy": [[round(float(v), 2) for v in box] for box in detections.boxes_xyxy],
        "scores": [round(float(v), 4) for v in detections.scores],
        "labels": detections.labels.tolist(),
    }


def read_pictures(run_folder: str | Path) -> Pictures | None:
    """The pictures of a run; None where it has none.

    Raises:
        InputError: `pictures.json` is not what `save_pictures` writes, or an image is missing.
    """
    path = Path(run_folder) / FOLDER_NAME / "pictures.json"
    if not path.is_file():
        return None
    value = read_json(path)
    try:
        classes = tuple(str(name) for name in value["classes"])
        rows = tuple(_row_from_dict(row, path.parent, len(classes)) for row in value["rows"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not as save_pictures writes it: {error!r}") from error
    return Pictures(classes, rows)


def _row_from_dict(row: dict[str, Any], folder: Path, classes: int) -> PictureRow:
    name = str(row["jpeg"])
    if not re.fullmatch(r"\d+\.jpg", name):  # nothing outside the folder is ever put on a page
        raise ValueError(f"jpeg is {name!r}, expected a number and .jpg")
    if not (folder / name).is_file():
        raise InputError(f"{folder / name}: no such image, though {folder / 'pictures.json'} lists it")
    height, width = (int(v) for v in row["size_hw"])
    found = {str(k): Detections(v["boxes_xyxy"], v["scores"], v["labels"]) for k, v in row["detections"].items()}
    truth = Annotations(**{k: row["annotations"][k] for k in ("boxes_xyxy", "labels", "difficult", "crowd")})
    for labels in (truth.labels, *(d.labels for d in found.values())):
        if len(labels) and labels.max() >= classes:
            raise ValueError(f"image {row['image_id']!r} has label {labels.max()}, there are {classes} classes")
    return PictureRow(str(row["image_id"]), folder / name, (height, width), truth, found)


def hits(annotations: Annotations, detections: Detections, iou_threshold: float = 0.5) -> NDArray[np.int64]:
    """`[N]` for each detection: the object that it found, -1 for none, -2 where it is neither right nor wrong.

    As in VOC's evaluation: best score first, each with the object of its class that it overlaps most; a second
    detection of an object is wrong; one of a difficult object does not count. A choice of score changes no result.
    """
    found = np.full(len(detections), -1, np.int64)
    overlaps = iou(detections.boxes_xyxy, annotations.boxes_xyxy)  # [N, M]
    overlaps = np.where(detections.labels[:, None] == annotations.labels[None, :], overlaps, 0)
    taken: set[int] = set()
    for index, row in enumerate(overlaps):
        best = int(row.argmax()) if len(row) else -1
        if best < 0 or row[best] < iou_threshold:
            continue
        if annotations.difficult[best] or annotations.crowd[best]:
            found[index] = -2
        elif best not in taken:
            taken.add(best)
            found[index] = best
    return found
