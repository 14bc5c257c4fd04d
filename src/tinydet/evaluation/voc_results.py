"""PASCAL VOC's results format: a file a class, `comp4_det_test_<class>.txt`.

A line is `image_id score xmin ymin xmax ymax`; pixels are counted from 1 and the last one is included (VOC2007
development kit, section 8.2), so that our corners are `xmin - 1, ymin - 1, xmax, ymax`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tinydet.errors import InputError
from tinydet.evaluation.detection_rows import DetectionFile, RowCollector
from tinydet.files import write_text
from tinydet.records import Detections

_NAME = re.compile(r"comp\d.*?_det_[^_]+_(?P<name>.+)\.txt")
_LINE = "image_id score xmin ymin xmax ymax"


def class_of(path: Path) -> str | None:
    """The class of a results file, by its name; None where it is not one."""
    match = _NAME.fullmatch(path.name)
    return match["name"] if match else None


def find_class_files(folder: Path) -> dict[str, Path]:
    """The results files of a folder, by class.

    Raises:
        InputError: two files are of one class.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("comp*_det_*.txt")):
        if (name := class_of(path)) is None:
            continue
        if name in files:
            raise InputError(f"{path}: class {name!r} also has {files[name].name}; keep the files of one set only")
        files[name] = path
    return files


def read_voc_results(path: Path, classes: Sequence[str], image_ids: Iterable[str] | None = None) -> DetectionFile:
    """Read the files of a folder, or the file of one class.

    Raises:
        InputError: there is none, a class is unknown, or a line is wrong; the message has the line.
    """
    if path.is_file():
        name = class_of(path)
        files = {} if name is None else {name: path}
    else:
        files = find_class_files(path)
    if not files:
        raise InputError(f"{path}: no results file comp4_det_<set>_<class>.txt")
    collector = RowCollector(path, image_ids)
    for name, file in files.items():
        if name not in classes:
            raise InputError(f"{file}: unknown class {name!r}; the classes of the data are {', '.join(classes)}")
        _read_file(file, list(classes).index(name), collector)
    missing = [name for name in classes if name not in files]
    if missing:
        collector.notes.append(f"{path}: no file, hence no detection, of class {', '.join(missing)}")
    return collector.finish()


def _read_file(path: Path, label: int, collector: RowCollector) -> None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        fields = line.strip().rsplit(maxsplit=5)  # a name may hold spaces
        try:
            if len(fields) != 6:
                raise ValueError
            score, xmin, ymin, xmax, ymax = (float(value) for value in fields[1:])
        except ValueError:
            raise InputError(f"{where}: expected `{_LINE}`, found {line[:80]!r}") from None
        if not all(map(math.isfinite, (score, xmin, ymin, xmax, ymax))):
            raise InputError(f"{where}: expected finite numbers, found {line[:80]!r}")
        if xmax < xmin - 1 or ymax < ymin - 1:
            raise InputError(f"{where}: xmax or ymax is below xmin or ymin: {line[:80]!r}")
        rows = collector.rows(fields[0], where)
        if rows is not None:
            rows.boxes_xyxy.append((xmin - 1, ymin - 1, xmax, ymax))
            rows.scores.append(score)
            rows.labels.append(label)


def write_voc_results(
    folder: Path, detections: Mapping[str, Detections], classes: Sequence[str], split: str = "test"
) -> tuple[Path, ...]:
    """Write `comp4_det_<split>_<class>.txt` for every class, those without detections too."""
    lines: list[list[str]] = [[] for _ in classes]
    for image_id, found in detections.items():
        for box, score, label in zip(found.boxes_xyxy.tolist(), found.scores, found.labels):
            x1, y1, x2, y2 = box
            corners = " ".join(f"{value:.12g}" for value in (x1 + 1, y1 + 1, x2, y2))
            lines[label].append(f"{image_id} {score:.9g} {corners}\n")
    paths = []
    for name, of_class in zip(classes, lines):
        paths.append(folder / f"comp4_det_{split}_{name}.txt")
        write_text(paths[-1], "".join(of_class))
    return tuple(paths)
