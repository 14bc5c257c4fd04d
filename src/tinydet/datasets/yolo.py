"""YOLO's text labels: a line an object, `class x_centre y_centre width height`, in parts of the image.

`data.yaml` names the classes and where the splits' images lie: folders, lists of folders, or text files of paths. The
labels of `.../images/.../a.jpg` are in `.../labels/.../a.txt`. An image without objects has an empty label file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tinydet.datasets.faults import (
    DUPLICATE_ID,
    EMPTY_FILE,
    MALFORMED_FILE,
    MALFORMED_OBJECT,
    MISSING_IMAGE,
    MISSING_LABEL,
    UNKNOWN_CLASS,
    FaultLog,
    Faulty,
    reject,
)
from tinydet.datasets.images import list_images, read_header
from tinydet.datasets.objects import ObjectList
from tinydet.datasets.tracking import Track, untracked
from tinydet.errors import InputError
from tinydet.records import Annotations, Dataset, Sample

_CLASSES_FILES = ("classes.txt", "obj.names", "labels/classes.txt")
_SPLIT_KEYS_NOT = ("path", "nc", "names", "download", "roboflow", "kpt_shape", "flip_idx", "channels")


@dataclass(frozen=True)
class YoloSource:
    """What a set says of itself.

    Attributes:
        file: the `data.yaml`, or the file of class names.
        names: the class of each index that labels may use.
        splits: the folders and text files of each.
    """

    folder: Path
    file: Path
    names: dict[int, str]
    splits: dict[str, tuple[Path, ...]]


@dataclass(frozen=True)
class _Listed:
    """An image, and the text file and line that name it, where one does."""

    image: Path
    said_by: Path | None = None
    line: int | None = None


def find_yaml(path: Path) -> Path | None:
    """The folder's `data.yaml`, or another YAML file in it that has `names`; None if there is none."""
    files = [file for suffix in ("yaml", "yml") for file in sorted(path.glob(f"*.{suffix}"))]
    files.sort(key=lambda file: file.stem != "data")
    for file in files:
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            content = None
        if file.stem == "data" or (isinstance(content, dict) and "names" in content):
            return file
    return None


def find_class_file(path: Path) -> Path | None:
    """The file of class names beside `images` and `labels`, for sets without a `data.yaml`; None if there is none."""
    if not ((path / "images").is_dir() and (path / "labels").is_dir()):
        return None
    return next((path / name for name in _CLASSES_FILES if (path / name).is_file()), None)


def source_from_yaml(file: Path) -> YoloSource:
    """What a `data.yaml` says.

    Raises:
        InputError: it is not YAML, has no `names`, or none of its splits exists.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{file}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error
    if not content:
        raise InputError(f"{file}: empty; expected `names`, and `train` or other splits")
    if not isinstance(content, dict) or not isinstance(content.get("names"), list | dict):
        raise InputError(f"{file}: no `names`; expected a list of class names, or a map from index to name")
    folder = _root_folder(file, content.get("path"))
    splits = {
        str(key): tuple(_resolve(str(entry), folder, file.parent) for entry in _as_list(value))
        for key, value in content.items()
        if key not in _SPLIT_KEYS_NOT and _is_paths(value)
    }
    if not splits:
        raise InputError(f"{file}: no split; expected `train: FOLDER`, `val: FOLDER`, ...; found {', '.join(content)}")
    return YoloSource(folder, file, _names(file, content), splits)


def _names(file: Path, content: dict[str, Any]) -> dict[int, str]:
    names = content["names"]
    try:
        found = {int(k): str(v) for k, v in (names.items() if isinstance(names, dict) else enumerate(names))}
    except (TypeError, ValueError) as error:
        raise InputError(f"{file}: `names` has a key that is not an index: {', '.join(map(str, names))}") from error
    if len(set(found.values())) != len(found):
        raise InputError(f"{file}: `names` has a class twice: {', '.join(found.values())}")
    count = content.get("nc", len(found))
    if count != len(found):
        raise InputError(f"{file}: `nc` is {count}, but `names` holds {len(found)}: {', '.join(found.values())}")
    return dict(sorted(found.items()))


def _is_paths(value: Any) -> bool:
    return bool(value) and (
        isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
    )


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _root_folder(file: Path, stated: Any) -> Path:
    """`path` of the YAML file where it leads somewhere; it often holds a folder of the computer the set comes from."""
    if isinstance(stated, str):
        for folder in (Path(stated).expanduser(), file.parent / stated):
            if folder.is_absolute() and folder.is_dir():
                return folder
        if (file.parent / stated).is_dir():
            return file.parent / stated
    return file.parent


def _resolve(entry: str, folder: Path, beside: Path) -> Path:
    """Where a split lies; some exports write `../train/images` for the `train/images` beside the file."""
    bare = entry
    while bare.startswith("../"):
        bare = bare[3:]
    candidates = [folder / entry, beside / entry, folder / bare, beside / bare]
    return next((path for path in candidates if path.exists()), candidates[0])


def source_from_folder(path: Path, names: Sequence[str], file: Path) -> YoloSource:
    """A set of `images` and `labels` without `data.yaml`: the folders in `images` are its splits, if it has any."""
    images = path / "images"
    folders = sorted(entry for entry in images.iterdir() if entry.is_dir())
    splits: dict[str, tuple[Path, ...]] = {"all": (images,)}
    if folders and not list_images(images):
        splits = {entry.name: (entry,) for entry in folders}
    return YoloSource(path, file, dict(enumerate(names)), splits)


def read_class_file(file: Path) -> tuple[str, ...]:
    """The class names in a text file, one a line."""
    names = tuple(line.strip() for line in file.read_text("utf-8", "replace").splitlines() if line.strip())
    if not names or len(set(names)) != len(names):
        raise InputError(f"{file}: expected a class name a line, each once; found {', '.join(names) or 'nothing'}")
    return names


def label_path(image: Path) -> Path:
    """Where the labels of an image lie: the last `images` folder of its path becomes `labels`."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _image_id(image: Path, folder: Path) -> str:
    """The path within the set, less the suffix and the last `images` folder: `train/a` of `images/train/a.jpg`."""
    path = image.relative_to(folder) if image.is_relative_to(folder) else Path(*image.parts[1:])
    parts = list(path.with_suffix("").parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            del parts[index]
            break
    return "/".join(parts)


def read_yolo(source: YoloSource, classes: Sequence[str] | None = None, track: Track = untracked) -> Dataset:
    """Read a YOLO set."""
    log = FaultLog()
    names = tuple(classes) if classes is not None else tuple(source.names.values())
    index = {name: label for label, name in enumerate(names)}
    labels = {number: index.get(name) for number, name in source.names.items()}
    made: dict[Path, Sample | None] = {}
    taken: dict[str, Path] = {}
    splits = {}
    for split, places in source.splits.items():
        listed = [item for place in places for item in _list_place(place, source, log)]
        for item in track(listed, len(listed), f"reading {split}"):
            if item.image in made:
                continue
            image_id = _image_id(item.image, source.folder)
            try:
                if image_id in taken:
                    message = f"{item.image.name} and {taken[image_id].name} share one label file; left out"
                    reject(DUPLICATE_ID, item.image, message)
                taken[image_id] = item.image
                made[item.image] = _read_image(item, image_id, source, labels, log)
            except Faulty as faulty:
                made[item.image] = None
                log.add_faulty(faulty)
        kept = (made[path] for path in dict.fromkeys(item.image for item in listed))
        splits[split] = tuple(sample for sample in kept if sample is not None)
    return Dataset(source.folder.name or str(source.folder), names, splits, log.as_tuple())


def _list_place(place: Path, source: YoloSource, log: FaultLog) -> list[_Listed]:
    if place.is_dir():
        return [_Listed(image) for image in list_images(place, deep=True)]
    if not place.is_file():
        log.add(MISSING_IMAGE, source.file, f"there is no folder or list of images {place}")
        return []
    lines = place.read_text(encoding="utf-8", errors="replace").splitlines()
    if not any(line.strip() for line in lines):
        log.add(EMPTY_FILE, place, "the list of images is empty")
    found: dict[Path, _Listed] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name:
            continue
        image = _listed_image(name, place, source)
        if not image.is_file():
            log.add(MISSING_IMAGE, place, f"there is no image {image}", number)
        elif image in found:
            message = f"image {name!r} is listed again; first in line {found[image].line}"
            log.add(DUPLICATE_ID, place, message, number)
        else:
            found[image] = _Listed(image, place, number)
    return list(found.values())


def _listed_image(name: str, place: Path, source: YoloSource) -> Path:
    """An image in a list: beside the list where it begins with a dot, else there or in the set's folder."""
    candidates = [place.parent / name, source.folder / name]
    return Path(*next((path for path in candidates if path.is_file()), candidates[0]).parts)


def _read_image(
    item: _Listed, image_id: str, source: YoloSource, labels: dict[int, int | None], log: FaultLog
) -> Sample:
    header = read_header(item.image, item.said_by, item.line)
    path = label_path(item.image)
    if not path.is_file():
        message = f"there is no {path}; left out (if nothing is to be found in this image, make that file, empty)"
        reject(MISSING_LABEL, item.image, message)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reject(MALFORMED_FILE, path, f"cannot be read as text: {error}")
    objects = ObjectList(header.size_hw, log)
    for number, line in enumerate(lines, 1):
        if line.strip():
            _add_line(objects, line, number, path, header.size_hw, source, labels, log)
    return Sample(image_id, item.image, header.size_hw, objects.annotations())


def _add_line(
    objects: ObjectList,
    line: str,
    number: int,
    path: Path,
    size_hw: tuple[int, int],
    source: YoloSource,
    labels: dict[int, int | None],
    log: FaultLog,
) -> None:
    try:
        first, *values = (float(value) for value in line.split())
        # A polygon has at least three corners; a box has four values.
        if not first.is_integer() or not (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
            raise ValueError
    except ValueError:
        message = f"{line.strip()[:60]!r} is not `class x_centre y_centre width height`; left out"
        log.add(MALFORMED_OBJECT, path, message, number)
        return
    label = labels.get(int(first))
    if label is None:
        known = ", ".join(f"{index} {name}" for index, name in source.names.items())
        name = source.names.get(int(first))
        what = (
            f"class {name!r} is not asked for" if name else f"class {int(first)} is not in {source.file.name} ({known})"
        )
        log.add(UNKNOWN_CLASS, path, what + "; left out", number)
        return
    height, width = size_hw
    if len(values) == 4:
        cx, cy, w, h = values
        x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    else:  # a polygon, of which the box is taken
        x1, y1, x2, y2 = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    corners = x1 * width, y1 * height, x2 * width, y2 * height
    objects.add([round(value, 5) for value in corners], label, path, number)  # whole pixels come back whole


def label_text(annotations: Annotations, size_hw: tuple[int, int]) -> str:
    """The label file of one image; empty where there is nothing in it."""
    height, width = size_hw
    x1, y1, x2, y2 = annotations.boxes_xyxy.astype(float).T
    parts = np.stack([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height], axis=1)
    return "".join(
        f"{label} " + " ".join(f"{value:.10g}" for value in row) + "\n"  # ten digits give back every whole pixel
        for label, row in zip(annotations.labels, parts)
    )


def list_text(samples: Sequence[Sample], folder: Path) -> str:
    """A list of images, a path a line, from the folder in which the list lies."""
    paths = (sample.image for sample in samples if isinstance(sample.image, Path))
    return "".join(f"./{os.path.relpath(path, folder)}\n" for path in paths)


def yaml_text(splits: Sequence[str], classes: Sequence[str]) -> str:
    """A `data.yaml` whose splits are the lists of images `<split>.txt` beside it."""
    content = {split: f"{split}.txt" for split in splits} | {"nc": len(classes), "names": dict(enumerate(classes))}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
