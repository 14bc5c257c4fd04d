"""WIDER FACE's results format: `<event>/<image>.txt` in a folder.

The first line is the image's name, the second the number of detections, and each other line one of them,
`x y width height score`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from tinydet.errors import InputError
from tinydet.evaluation.detection_rows import DetectionFile, RowCollector
from tinydet.files import write_text
from tinydet.records import Detections

_LINE = "x y width height score"


def read_wider_detections(folder: Path, image_ids: Iterable[str] | None = None, label: int = 0) -> DetectionFile:
    """Read all detections below a folder, by `event/file stem`.

    Raises:
        InputError: there is none, or a file is wrong; the message has the line.
    """
    files = sorted(folder.glob("*/*.txt"))
    if not files:
        raise InputError(f"{folder}: no <event>/<image>.txt; expected a folder of WIDER FACE detections")
    image_ids = None if image_ids is None else list(image_ids)
    collector = RowCollector(folder, image_ids)
    names = set()
    for path in files:
        name = f"{path.parent.name}/{path.stem}"
        names.add(name)
        values = _read_file(path)
        rows = collector.rows(name, str(path), len(values))
        if rows is not None and len(values):
            corners = values[:, :4].copy()
            corners[:, 2:] += corners[:, :2]
            rows.boxes_xyxy.extend(corners.tolist())  # type: ignore[arg-type]  # rows of four
            rows.scores.extend(values[:, 4].tolist())
            rows.labels.extend([label] * len(values))
    missing = [] if image_ids is None else [image_id for image_id in image_ids if image_id not in names]
    if missing:
        collector.notes.append(f"{folder}: no file, hence no detection, of {len(missing)} images, such as {missing[0]}")
    return collector.finish()


def _read_file(path: Path) -> np.ndarray:
    """`[N, 5]` float64: x, y, width, height, score."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not any(line.strip() for line in lines):
        raise InputError(f"{path}:1: the file is empty; expected the image's name, the number of detections, and them")
    if len(lines) < 2 or not lines[1].strip().isdigit():
        found = lines[1][:60] if len(lines) > 1 else "the end of the file"
        raise InputError(f"{path}:2: expected the number of detections, found {found!r}")
    count = int(lines[1])
    rows = [line.split() for line in lines[2:]]
    while rows and not rows[-1]:
        rows.pop()
    if len(rows) != count:
        raise InputError(f"{path}:2: said to have {count} detections, but {len(rows)} lines follow")
    if not rows:
        return np.zeros((0, 5))
    try:
        values = np.array(rows, dtype=np.float64)
    except ValueError:
        values = np.zeros(0)
    if values.shape != (count, 5) or not np.isfinite(values).all() or (values[:, 2:4] < 0).any():
        _reject_line(path, rows)
    return values


def _reject_line(path: Path, rows: list[list[str]]) -> None:
    for number, row in enumerate(rows, 3):
        try:
            values = [float(value) for value in row]
            good = len(values) == 5 and np.isfinite(values).all() and values[2] >= 0 and values[3] >= 0
        except ValueError:
            good = False
        if not good:
            found = " ".join(row)[:80]
            raise InputError(f"{path}:{number}: expected `{_LINE}`, finite, no negative size; found {found!r}")


def write_wider_detections(folder: Path, detections: Mapping[str, Detections]) -> None:
    """Write `<image_id>.txt` for every entry, those without detections too; an id is `event/file stem`.

    Raises:
        InputError: an id is not of this form.
    """
    for image_id in detections:
        parts = image_id.split("/")
        if len(parts) != 2 or not all(parts) or ".." in parts:
            raise InputError(f"image {image_id!r}: WIDER FACE's detections need ids of the form event/image")
    for image_id, found in detections.items():
        lines = [image_id.rsplit("/", 1)[1], str(len(found))]
        for box, score in zip(found.boxes_xyxy.tolist(), found.scores):
            x1, y1, x2, y2 = box
            lines.append(" ".join(f"{value:.9g}" for value in (x1, y1, x2 - x1, y2 - y1, float(score))))
        write_text(folder / f"{image_id}.txt", "\n".join(lines) + "\n")
