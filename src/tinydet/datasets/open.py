"""One way in: a path, whatever its layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tinydet.datasets import coco, digits, voc, wider_face, yolo
from tinydet.datasets.tracking import Track, untracked
from tinydet.errors import InputError
from tinydet.records import Dataset

_LOOKED_FOR = """\
  PASCAL VOC   ImageSets/Main/*.txt, or VOC2007/, VOC2012/ in it, or images with .xml files (together, or in
               images/ and annotations/)
  COCO         a .json file, annotations/*.json, or */_annotations.coco.json
  YOLO         a data.yaml, or images/ and labels/ with classes.txt
  WIDER FACE   wider_face_split/wider_face_train_bbx_gt.txt or wider_face_val_bbx_gt.txt
  digits       the word `digits`, the set that needs no file"""


Layout = Literal["voc", "coco", "yolo", "wider"]


@dataclass(frozen=True)
class Source:
    """Where a data set lies, and in which layout.

    Attributes:
        voc_roots, coco_files, yolo_source: of that layout, else empty.
    """

    layout: Layout
    root: Path
    voc_roots: tuple[voc.VocRoot, ...] = ()
    coco_files: tuple[Path, ...] = ()
    yolo_source: yolo.YoloSource | None = None

    def read(self, classes: Sequence[str] | None = None, track: Track = untracked) -> Dataset:
        if self.layout == "voc":
            return voc.read_voc(self.root, self.voc_roots, classes, track)
        if self.layout == "coco":
            return coco.read_coco(self.root, self.coco_files, classes, track)
        if self.yolo_source is not None:
            return yolo.read_yolo(self.yolo_source, classes, track)
        return wider_face.read_wider_face(self.root, classes, track)


def is_digits(path: str | os.PathLike[str]) -> bool:
    """Whether the built-in set is meant, which has no files."""
    return os.fspath(path).partition(":")[0] == "digits"


def open_dataset(
    path: str | os.PathLike[str], classes: Sequence[str] | None = None, track: Track = untracked
) -> Dataset:
    """Open a labelled data set; its layout is recognised.

    Only image headers are read, no pixels. Faults in the files are collected in `Dataset.faults`; what is faulty is
    left out of the splits.

    Args:
        path: a folder or file as the error below lists them; or `digits`, or with settings `digits:seed=3,train=100`.
        classes: the class names to take, in this order; objects of others are faults. By default those of the set.
        track: shows progress.

    Raises:
        InputError: there is nothing there, or no layout is recognised; says what was looked for and what was found.
    """
    if classes is not None and (not classes or len(set(classes)) != len(classes)):
        raise InputError(f"classes: expected names, each once; found {', '.join(classes) or 'none'}")
    if is_digits(path):
        return digits.from_words(os.fspath(path), classes)
    dataset = find_source(path, classes).read(classes, track)
    if not any(dataset.splits.values()):
        if not dataset.faults:
            raise InputError(f"{path}: the data set lists no image")
        dataset = replace(dataset, splits=dataset.splits or {"all": ()})
    return dataset


def find_source(path: str | os.PathLike[str], classes: Sequence[str] | None = None) -> Source:
    """Recognise the layout of what lies at a path.

    Args:
        classes: stand in for the missing `data.yaml` of a YOLO folder.

    Raises:
        InputError: as `open_dataset`.
    """
    place = Path(os.path.abspath(Path(path).expanduser()))  # `.` has a name too
    if not place.exists():
        raise InputError(f"{path}: there is no such file or folder; expected a data set or the word `digits`")
    try:
        source = _file_source(place) if place.is_file() else _folder_source(place, classes)
    except PermissionError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if source is None:
        raise InputError(f"{path}: no data set is recognised. Looked for:\n{_LOOKED_FOR}\nFound: {_found(place)}")
    return source


def _file_source(path: Path) -> Source | None:
    if path.suffix.lower() == ".json":
        return Source("coco", path, coco_files=(path,))
    if path.suffix.lower() in (".yaml", ".yml"):
        return Source("yolo", path.parent, yolo_source=yolo.source_from_yaml(path))
    root = wider_face.find_root(path)
    return None if root is None else Source("wider", root)


def _folder_source(path: Path, classes: Sequence[str] | None) -> Source | None:
    if (file := yolo.find_yaml(path)) is not None:
        return Source("yolo", path, yolo_source=yolo.source_from_yaml(file))
    if (root := wider_face.find_root(path)) is not None:
        return Source("wider", root)
    if (path / "ImageSets" / "Main").is_dir() and (roots := voc.find_roots(path)):
        return Source("voc", path, voc_roots=tuple(roots))
    if files := coco.find_files(path):
        return Source("coco", path, coco_files=tuple(files))
    if (file := yolo.find_class_file(path)) is not None:
        names = yolo.read_class_file(file)
        return Source("yolo", path, yolo_source=yolo.source_from_folder(path, names, file))
    if roots := voc.find_roots(path):
        return Source("voc", path, voc_roots=tuple(roots))
    if classes and (path / "images").is_dir() and (path / "labels").is_dir():
        return Source("yolo", path, yolo_source=yolo.source_from_folder(path, classes, path))
    return None


def _found(path: Path) -> str:
    if path.is_file():
        size = path.stat().st_size
        hint = "; extract it first" if path.suffix in (".zip", ".tar", ".gz", ".tgz") else ""
        return f"a file of {size} bytes{hint}"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in path.iterdir())
    if not names:
        return "an empty folder"
    return ", ".join(names[:12]) + (f", and {len(names) - 12} more" if len(names) > 12 else "")
