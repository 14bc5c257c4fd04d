"""COCO's results format: a JSON list of `{"image_id", "category_id", "bbox": [x, y, width, height], "score"}`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tinydet.errors import InputError
from tinydet.evaluation.detection_rows import DetectionFile, RowCollector
from tinydet.files import read_json, write_text
from tinydet.records import Detections

_FIELDS = ("image_id", "category_id", "bbox", "score")


def category_labels(files: Iterable[Path], classes: Sequence[str]) -> dict[int, int]:
    """Label by category id, from the `categories` of COCO annotation files.

    Raises:
        InputError: two files give an id to different classes.
    """
    labels: dict[int, int] = {}
    for path in files:
        content = read_json(path)
        for category in content.get("categories", []) if isinstance(content, dict) else []:
            number, name = category.get("id"), str(category.get("name"))
            if name not in classes or not isinstance(number, int):
                continue
            label = list(classes).index(name)
            if labels.setdefault(number, label) != label:
                raise InputError(
                    f"{path}: category {number} is {name!r} here, {classes[labels[number]]!r} in another file"
                )
    return labels


def read_coco_results(
    path: Path,
    classes: Sequence[str],
    image_ids: Iterable[str] | None = None,
    labels: Mapping[int, int] | None = None,
) -> DetectionFile:
    """Read a results file.

    Args:
        image_ids: of the data set; None to take every image.
        labels: label by category id; where None, category n is class n - 1, as `tinydet data convert` writes it.

    Raises:
        InputError: it is not such a file; the message has the line.
    """
    entries = _load(path)
    labels = labels or {label + 1: label for label in range(len(classes))}
    collector = RowCollector(path, image_ids)
    for number, entry in enumerate(entries):
        problem = _problem(entry)
        label = None if problem else _label(entry["category_id"], labels, classes)
        if problem is None and label is None:
            known = ", ".join(f"{number} {classes[label]}" for number, label in sorted(labels.items())[:30])
            problem = f"unknown category_id {entry['category_id']!r}; the classes of the data are {known}"
        if problem is not None:
            raise InputError(f"{_place(path, number)}: detection {number}: {problem}")
        rows = collector.rows(str(entry["image_id"]), f"{path}: detection {number}")
        if rows is not None:
            x, y, width, height = entry["bbox"]
            rows.boxes_xyxy.append((x, y, x + width, y + height))
            rows.scores.append(entry["score"])
            rows.labels.append(label or 0)
    return collector.finish()


def _load(path: Path) -> list[Any]:
    if path.is_file() and not path.stat().st_size:
        raise InputError(f"{path}:1: the file is empty; a file without detections holds []")
    content = read_json(path)
    if isinstance(content, dict) and "annotations" in content:
        raise InputError(f"{path}: these are annotations; expected detections, a list of objects with {_FIELDS}")
    if not isinstance(content, list):
        found = type(content).__name__
        raise InputError(f"{path}:1: expected a list of objects with {', '.join(_FIELDS)}; found {found}")
    return content


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _problem(entry: Any) -> str | None:
    """What is wrong with an entry, its class apart."""
    if not isinstance(entry, dict):
        return f"expected an object with {', '.join(_FIELDS)}; found {str(entry)[:60]!r}"
    missing = [name for name in _FIELDS if name not in entry]
    if missing:
        return f"{missing[0]!r} is missing; expected {', '.join(_FIELDS)}"
    if type(entry["image_id"]) not in (int, str):
        return f"image_id is {entry['image_id']!r}, expected a number or a name"
    if not _is_number(entry["score"]):
        return f"score is {entry['score']!r}, expected a finite number"
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"bbox is {box!r}, expected four finite numbers: x, y, width, height"
    if box[2] < 0 or box[3] < 0:
        return f"bbox {box} has a negative width or height; expected x, y, width, height"
    return None


def _label(category: Any, labels: Mapping[int, int], classes: Sequence[str]) -> int | None:
    """By id; or by name, which some tools write."""
    if isinstance(category, str):
        return list(classes).index(category) if category in classes else None
    return labels.get(category) if type(category) is int else None


def _place(path: Path, number: int) -> str:
    """The file and the line of an element; the file is read again."""
    from tinydet.datasets.json_lines import element_lines

    lines = element_lines(f'{{"detections": {path.read_text(encoding="utf-8")}}}', "detections")
    return f"{path}:{lines[number]}" if number < len(lines) else str(path)


def write_coco_results(
    path: Path,
    detections: Mapping[str, Detections],
    category_ids: Sequence[int] | None = None,
) -> None:
    """Write a results file, a detection a line.

    Ids that are plain numbers are written as numbers, as COCO has them.

    Args:
        category_ids: of each label; label + 1 where None.
    """
    lines = []
    for image_id, found in detections.items():
        name = (
            int(image_id) if image_id.isascii() and image_id.isdigit() and str(int(image_id)) == image_id else image_id
        )
        for box, score, label in zip(found.boxes_xyxy.tolist(), found.scores, found.labels.tolist()):
            x1, y1, x2, y2 = box
            entry = {
                "image_id": name,
                "category_id": label + 1 if category_ids is None else category_ids[label],
                "bbox": [round(value, 6) for value in (x1, y1, x2 - x1, y2 - y1)],
                "score": float(f"{score:.9g}"),
            }
            lines.append(json.dumps(entry, ensure_ascii=False))
    write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")
