"""Detections made elsewhere: one way in, whatever their format, and one way out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tinydet.errors import InputError
from tinydet.evaluation.coco_results import read_coco_results, write_coco_results
from tinydet.evaluation.detection_rows import DetectionFile
from tinydet.evaluation.results import Protocol
from tinydet.evaluation.voc_results import class_of, find_class_files, read_voc_results, write_voc_results
from tinydet.evaluation.wider_results import read_wider_detections, write_wider_detections
from tinydet.records import Detections

_EXPECTED = """\
  COCO         a .json file, a list of objects with image_id, category_id, bbox, score
  PASCAL VOC   a folder with comp4_det_<set>_<class>.txt, or one such file
  WIDER FACE   a folder with <event>/<image>.txt"""


def read_detections(
    path: Path,
    classes: Sequence[str],
    image_ids: Iterable[str] | None = None,
    category_labels: Mapping[int, int] | None = None,
) -> DetectionFile:
    """Read detections; their format is recognised.

    Args:
        image_ids: of the data set; detections of other images are left out and counted in the notes. None to take all.
        category_labels: label by COCO's category id; category n is class n - 1 where None.

    Raises:
        InputError: there is nothing there, no format is recognised, or something in it is wrong; the message has the
            file and the line.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder. Expected one of:\n{_EXPECTED}")
    if path.is_file():
        if path.suffix.lower() == ".json":
            return read_coco_results(path, classes, image_ids, category_labels)
        if class_of(path) is not None:
            return read_voc_results(path, classes, image_ids)
    elif find_class_files(path):
        return read_voc_results(path, classes, image_ids)
    elif any(path.glob("*/*.txt")):
        if len(classes) != 1:
            raise InputError(f"{path}: WIDER FACE's detections are of one class; the data has {len(classes)}")
        return read_wider_detections(path, image_ids)
    raise InputError(f"{path}: no detections are recognised. Expected one of:\n{_EXPECTED}")


def write_detections(
    folder: Path, detections: Mapping[str, Detections], classes: Sequence[str], protocol: Protocol, split: str = "test"
) -> Path:
    """Write detections in the protocol's own format into a folder, and give what `read_detections` takes."""
    if protocol == "coco":
        write_coco_results(folder / "coco_results.json", detections)
        return folder / "coco_results.json"
    if protocol == "wider":
        write_wider_detections(folder, detections)
    else:
        write_voc_results(folder, detections, classes, split)
    return folder
