"""WIDER FACE's annotation files: an image's name, the number of its faces, and a line a face.

A face is `x y width height blur expression illumination invalid occlusion pose`. Faces marked `invalid` become
difficult objects. A face without width or height marks a place where none can be annotated, and is left out; an image
without faces says 0 and has one line of zeros (readme.txt of wider_face_split.zip). `image_id` is `event/file stem`,
as the evaluation names images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tinydet.datasets.faults import (
    DUPLICATE_ID,
    EMPTY_FILE,
    MALFORMED_FILE,
    MALFORMED_OBJECT,
    UNKNOWN_CLASS,
    FaultLog,
    Faulty,
)
from tinydet.datasets.images import read_header
from tinydet.datasets.objects import ObjectList
from tinydet.datasets.tracking import Track, untracked
from tinydet.records import Dataset, Sample

FACE_CLASSES = ("face",)
SPLITS = ("train", "val")
_COLUMNS = 10
_INVALID = 7

_Line = tuple[int, str]


def annotation_file(root: Path, split: str) -> Path:
    return root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt"


def find_root(path: Path) -> Path | None:
    """The folder with `wider_face_split`: the path, one in it (`widerface`, `WIDER`), or the one around it; or None."""
    for root in (path, path / "widerface", path / "WIDER", path / "WIDER_FACE", path.parent, path.parent.parent):
        found = any(annotation_file(root, split).is_file() for split in SPLITS)
        if found and (root not in path.parents or path.is_file() or path.name == "wider_face_split"):
            return root
    return None


def read_wider_face(root: Path, classes: Sequence[str] | None = None, track: Track = untracked) -> Dataset:
    """Read the training and validation splits, those of them that are there."""
    log = FaultLog()
    names = tuple(classes) if classes is not None else FACE_CLASSES
    splits = {}
    for split in SPLITS:
        path = annotation_file(root, split)
        if path.is_file():
            images = root / f"WIDER_{split}" / "images"
            splits[split] = _read_file(path, images, names, log, track)
    return Dataset(root.name or str(root), names, splits, log.as_tuple())


def _read_file(path: Path, images: Path, names: Sequence[str], log: FaultLog, track: Track) -> tuple[Sample, ...]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        log.add(EMPTY_FILE, path, "the annotation file is empty")
    blocks = _blocks(numbered, path, log)
    samples: dict[str, Sample] = {}
    for (number, name), faces in track(blocks, len(blocks), f"reading {path.name}"):
        image_id = name.rsplit(".", 1)[0]
        if image_id in samples:
            log.add(DUPLICATE_ID, path, f"image {name!r} is annotated again; left out", number)
            continue
        try:
            header = read_header(images / name, path, number)
        except Faulty as faulty:
            log.add_faulty(faulty)
            continue
        objects = ObjectList(header.size_hw, log)
        for face in faces:
            _add_face(objects, face, names, path, log)
        samples[image_id] = Sample(image_id, images / name, header.size_hw, objects.annotations())
    return tuple(samples.values())


def _is_image(line: str) -> bool:
    return line.lower().endswith((".jpg", ".jpeg", ".png"))


def _blocks(lines: Sequence[_Line], path: Path, log: FaultLog) -> list[tuple[_Line, list[_Line]]]:
    """Each image's line, and the lines of its faces; what lies between is noted and passed over."""
    blocks = []
    position = 0
    while position < len(lines):
        number, name = lines[position]
        position += 1
        if not _is_image(name):
            log.add(MALFORMED_FILE, path, f"expected an image's name, found {name[:60]!r}", number)
            continue
        if name.startswith("/") or ".." in name.split("/"):
            log.add(MALFORMED_FILE, path, f"{name!r} is not the name of an image inside the set", number)
            continue
        if position == len(lines) or not lines[position][1].isdigit():
            found = lines[position][1][:60] if position < len(lines) else "the end of the file"
            log.add(MALFORMED_FILE, path, f"expected the number of faces of {name}, found {found!r}; left out", number)
            continue
        count = int(lines[position][1])
        position += 1
        start = position
        while position < len(lines) and position - start < max(count, 1) and not _is_image(lines[position][1]):
            position += 1
        faces = list(lines[start:position])
        if len(faces) < count:
            message = f"{name} is said to have {count} faces, but {len(faces)} lines follow; those are kept"
            log.add(MALFORMED_FILE, path, message, number)
        blocks.append(((number, name), faces if count else []))
    return blocks


def _add_face(objects: ObjectList, face: _Line, names: Sequence[str], path: Path, log: FaultLog) -> None:
    number, line = face
    try:
        values = [int(value) for value in line.split()]
        if len(values) not in (4, _COLUMNS):
            raise ValueError
    except ValueError:
        message = f"{line[:60]!r} is not `x y width height` and six flags; left out"
        log.add(MALFORMED_OBJECT, path, message, number)
        return
    x, y, width, height = values[:4]
    if width == 0 or height == 0:
        return
    if FACE_CLASSES[0] not in names:
        log.add(UNKNOWN_CLASS, path, f"class 'face' is none of: {', '.join(names)}; left out", number)
        return
    invalid = len(values) == _COLUMNS and values[_INVALID] != 0
    label = list(names).index(FACE_CLASSES[0])
    objects.add((x, y, x + width, y + height), label, path, number, difficult=invalid)
