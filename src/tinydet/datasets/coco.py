"""COCO's JSON: one file a split, with the images, the categories and the annotations of all.

Boxes are `[x, y, width, height]` from 0 (https://cocodataset.org/#format-data). The format has no flag for difficult
objects; this reader and writer keep it under `difficult` in each annotation, which other tools pass over.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tinydet.datasets.faults import (
    DUPLICATE_ID,
    EMPTY_FILE,
    MALFORMED_FILE,
    MALFORMED_OBJECT,
    MISSING_IMAGE,
    UNKNOWN_CLASS,
    FaultLog,
    Faulty,
    reject,
)
from tinydet.datasets.images import read_header
from tinydet.datasets.json_lines import element_lines
from tinydet.datasets.objects import ObjectList, check_stated_size
from tinydet.datasets.tracking import Track, untracked
from tinydet.records import Dataset, Sample

_YEAR = re.compile(r"[_-]?(19|20)\d\d$")
_ROBOFLOW_NAME = "_annotations.coco.json"


def find_files(path: Path) -> list[Path]:
    """The COCO files of a folder: `annotations/*.json`, `*.json`, or one in each split's folder; empty if none."""
    for folder in (path / "annotations", path):
        files = [file for file in sorted(folder.glob("*.json")) if _looks_like_instances(file)]
        instances = [file for file in files if file.name.startswith("instances_")]  # beside captions and key points
        if files:
            return instances or files
    return sorted(path.glob(f"*/{_ROBOFLOW_NAME}"))


def _looks_like_instances(path: Path) -> bool:
    """Whether the file speaks of images and categories, by a look at its ends only: it may hold gigabytes."""
    window = 1 << 20
    try:
        with open(path, "rb") as file:
            head = file.read(window)
            file.seek(max(0, path.stat().st_size - window))
            ends = head + file.read(window)
    except OSError:
        return False
    return not ends.strip() or b'"images"' in ends or b'"annotations"' in ends


def split_name(path: Path) -> str:
    """`train` of `instances_train2017.json`, and of `train/_annotations.coco.json`."""
    if path.name == _ROBOFLOW_NAME:
        return path.parent.name
    name = path.stem.removeprefix("instances_")
    return _YEAR.sub("", name) or name


@dataclass(frozen=True)
class _CocoFile:
    path: Path
    text: str
    content: dict[str, Any]
    _lines: dict[str, list[int]] = field(default_factory=dict)

    def entries(self, key: str) -> list[tuple[int, Any]]:
        return list(enumerate(self.content.get(key) or []))

    def categories(self) -> list[dict[str, Any]]:
        entries = [entry for _, entry in self.entries("categories") if isinstance(entry, dict)]
        return [entry for entry in entries if "name" in entry and isinstance(entry.get("id"), int | str)]

    def line(self, key: str, number: int) -> int | None:
        """Where an element stands; reads the file again the first time it is asked."""
        if key not in self._lines:
            self._lines[key] = element_lines(self.text, key)
        return self._lines[key][number] if number < len(self._lines[key]) else None


def _load(path: Path) -> _CocoFile:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reject(MALFORMED_FILE, path, f"cannot be read: {error}")
    if not text.strip():
        reject(EMPTY_FILE, path, "the annotation file is empty")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        reject(MALFORMED_FILE, path, f"not valid JSON: {error.msg}", error.lineno)
    except RecursionError:
        reject(MALFORMED_FILE, path, "not valid COCO JSON: nested too deeply")
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        found = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        reject(MALFORMED_FILE, path, f"expected an object with images, annotations and categories; found {found}", 1)
    for key in ("annotations", "categories"):
        if not isinstance(content.get(key, []), list):
            reject(MALFORMED_FILE, path, f"{key!r} is not a list")
    return _CocoFile(path, text, content)


def read_coco(
    root: Path, files: Sequence[Path], classes: Sequence[str] | None = None, track: Track = untracked
) -> Dataset:
    """Read COCO files, each a split; a single file without `instances_` in its name is the split `all`.

    Images are looked for beside the file, in `images`, and in folders named like the split or the file.
    """
    log = FaultLog()
    loaded = []
    for path in files:
        try:
            loaded.append(_load(path))
        except Faulty as faulty:
            log.add_faulty(faulty)
    names = tuple(classes) if classes is not None else _all_classes(loaded)
    by_split: dict[str, list[Sample]] = {}
    for file in loaded:
        plain = len(files) == 1 and not file.path.name.startswith("instances_")
        split = "all" if plain and file.path.name != _ROBOFLOW_NAME else split_name(file.path)
        split = file.path.stem if split in by_split else split
        by_split[split] = _read_file(root, file, names, log, track)
    return Dataset(root.name or str(root), names, _with_unique_ids(by_split), log.as_tuple())


def _all_classes(files: Sequence[_CocoFile]) -> tuple[str, ...]:
    """The categories of all files, in the order of their ids."""
    names: dict[str, None] = {}
    for file in files:
        known = file.categories()
        used = {str(entry.get("category_id")) for _, entry in file.entries("annotations") if isinstance(entry, dict)}
        parents = {str(entry.get("supercategory")) for entry in known}
        for entry in sorted(known, key=lambda entry: (isinstance(entry["id"], str), entry["id"])):
            # Some exports add the set itself as category 0, parent of all others and never used.
            if entry["id"] == 0 and entry["name"] in parents and "0" not in used and len(known) > 1:
                continue
            names[str(entry["name"])] = None
    return tuple(names)


def _read_file(root: Path, file: _CocoFile, names: Sequence[str], log: FaultLog, track: Track) -> list[Sample]:
    images = _images_by_id(file, log)
    objects_of = _objects_by_image(file, images, log)
    labels = _labels_by_category(file, names)
    finder = _ImageFinder(root, file.path)
    samples = []
    for image_id, (number, entry) in track(images.items(), len(images), f"reading {file.path.name}"):
        try:
            path = finder.find(str(entry["file_name"]))
            if path is None:
                where = ", ".join(map(str, finder.folders))
                message = f"image {image_id}: there is no {entry['file_name']} in {where}"
                reject(MISSING_IMAGE, file.path, message, file.line("images", number))
            header = read_header(path)
            stated = entry.get("height"), entry.get("width")
            if isinstance(stated[0], int) and isinstance(stated[1], int) and stated != header.size_hw:
                line = file.line("images", number)
                check_stated_size((stated[0], stated[1]), header, file.path, log, line, f"image {image_id}: ")
        except Faulty as faulty:
            log.add_faulty(faulty)
            continue
        objects = ObjectList(header.size_hw, log)
        for index, annotation in objects_of.get(image_id, ()):
            _add_object(objects, file, index, annotation, labels, log)
        samples.append(Sample(str(image_id), path, header.size_hw, objects.annotations()))
    return samples


def _images_by_id(file: _CocoFile, log: FaultLog) -> dict[Any, tuple[int, dict[str, Any]]]:
    images: dict[Any, tuple[int, dict[str, Any]]] = {}
    for number, entry in file.entries("images"):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str) or not entry.get("file_name"):
            message = f"images[{number}] has no id and file_name; left out"
            log.add(MALFORMED_OBJECT, file.path, message, file.line("images", number))
        elif entry["id"] in images:
            message = f"image id {entry['id']} is used again ({entry['file_name']}); left out"
            log.add(DUPLICATE_ID, file.path, message, file.line("images", number))
        else:
            images[entry["id"]] = (number, entry)
    return images


def _objects_by_image(
    file: _CocoFile, images: Mapping[Any, Any], log: FaultLog
) -> dict[Any, list[tuple[int, dict[str, Any]]]]:
    objects: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    seen: set[Any] = set()
    for number, entry in file.entries("annotations"):
        if not isinstance(entry, dict) or not isinstance(entry.get("image_id"), int | str):
            message = f"annotations[{number}] has no image_id; left out"
            log.add(MALFORMED_OBJECT, file.path, message, file.line("annotations", number))
            continue
        annotation_id = entry.get("id")
        if isinstance(annotation_id, int | str):
            if annotation_id in seen:
                message = f"annotation id {annotation_id} is used again; the box is kept"
                log.add(DUPLICATE_ID, file.path, message, file.line("annotations", number))
            seen.add(annotation_id)
        if entry["image_id"] not in images:
            message = f"annotation {annotation_id}: there is no image with id {entry['image_id']}; left out"
            log.add(MISSING_IMAGE, file.path, message, file.line("annotations", number))
            continue
        objects.setdefault(entry["image_id"], []).append((number, entry))
    return objects


def _labels_by_category(file: _CocoFile, names: Sequence[str]) -> dict[Any, int | str]:
    """Category id to label, or to its name where that is none of the classes."""
    index = {name: label for label, name in enumerate(names)}
    return {entry["id"]: index.get(str(entry["name"]), str(entry["name"])) for entry in file.categories()}


def _add_object(
    objects: ObjectList,
    file: _CocoFile,
    number: int,
    entry: Mapping[str, Any],
    labels: Mapping[Any, int | str],
    log: FaultLog,
) -> None:
    note = f"annotation {entry.get('id')}: "
    category = entry.get("category_id")
    label = labels.get(category) if isinstance(category, int | str) else None
    if not isinstance(label, int):
        what = f"class {label!r} is not asked for" if label else f"there is no category with id {category!r}"
        log.add(UNKNOWN_CLASS, file.path, note + what + "; left out", file.line("annotations", number))
        return
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        message = f"{note}bbox is {box!r}, not [x, y, width, height]; left out"
        log.add(MALFORMED_OBJECT, file.path, message, file.line("annotations", number))
        return
    before = len(log)
    x, y, width, height = box
    difficult, crowd = bool(entry.get("difficult")), bool(entry.get("iscrowd"))
    objects.add((x, y, x + width, y + height), label, file.path, None, difficult=difficult, crowd=crowd, note=note)
    if len(log) > before:  # the line costs a second reading of the file: only now
        log.set_last_line(file.line("annotations", number))


class _ImageFinder:
    """Finds `file_name` where the common layouts put images."""

    def __init__(self, root: Path, file: Path) -> None:
        base = root if root.is_dir() else root.parent
        split = file.stem.removeprefix("instances_")
        beside = [file.parent] if file.parent.name != "annotations" else [file.parent.parent, file.parent]
        candidates: list[Path] = []
        for folder in (base, *beside):
            inside = (folder / "images" / split, folder / split, folder / "images" / split_name(file))
            candidates += [*inside, folder / split_name(file), folder / "images", folder, folder / "JPEGImages"]
        self.folders = [folder for folder in dict.fromkeys(candidates) if folder.is_dir()]

    def find(self, file_name: str) -> Path | None:
        if ".." in PurePosixPath(file_name).parts:
            return None
        for folder in self.folders:
            path = folder / file_name
            if os.path.isfile(path):
                self.folders.remove(folder)  # the next image most likely lies beside this one
                self.folders.insert(0, folder)
                return path
        return None


def _with_unique_ids(splits: Mapping[str, Sequence[Sample]]) -> dict[str, tuple[Sample, ...]]:
    """The same, with the split before each id where two splits use an id for different images."""
    first: dict[str, Path] = {}
    clash = False
    for samples in splits.values():
        for sample in samples:
            assert isinstance(sample.image, Path)
            clash |= first.setdefault(sample.image_id, sample.image) != sample.image
    if not clash:
        return {split: tuple(samples) for split, samples in splits.items()}
    return {
        split: tuple(Sample(f"{split}/{s.image_id}", s.image, s.size_hw, s.annotations) for s in samples)
        for split, samples in splits.items()
    }


def coco_content(
    samples: Sequence[Sample], file_names: Mapping[str, str], ids: Mapping[str, int], classes: Sequence[str]
) -> dict[str, Any]:
    """The content of a COCO file.

    Args:
        file_names: of each sample's image, by `image_id`.
        ids: COCO's number of each image, by `image_id`.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for sample in samples:
        number = ids[sample.image_id]
        height, width = sample.size_hw
        images.append({"id": number, "file_name": file_names[sample.image_id], "width": width, "height": height})
        objects = sample.annotations
        for box, label, difficult, crowd in zip(
            objects.boxes_xyxy.astype(float), objects.labels, objects.difficult, objects.crowd
        ):
            x1, y1, x2, y2 = (_plain(value) for value in box)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": int(label) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": int(crowd),
            }
            annotations.append(annotation | ({"difficult": 1} if difficult else {}))
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)


def file_text(content: Mapping[str, Any]) -> str:
    """The file's text with an image or annotation a line, so that a fault's line leads to it."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in value) + "\n]"
        else:
            text = json.dumps(value, ensure_ascii=False)
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
