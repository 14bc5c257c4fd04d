"""PASCAL VOC: one XML file an image, and lists of image names for the splits.

Reads the official root (`ImageSets/Main`, `JPEGImages`, `Annotations`), and what people really have: a folder of images
and XML files, together or in folders of their own, without lists.

A VOC file counts pixels from 1 and includes the last one; `[xmin - 1, ymin - 1, xmax, ymax]` are our corners
(VOC2007 development kit, section 4.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

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
from tinydet.datasets.images import ImageFolder, ImageHeader, list_images, read_header
from tinydet.datasets.objects import ObjectList, check_stated_size
from tinydet.datasets.tracking import Track, untracked
from tinydet.datasets.xml_nodes import Node, read_xml
from tinydet.records import Annotations, Dataset, Sample

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
CLASSES_FILE = "classes.txt"
_YEAR = re.compile(r"VOC(\d{4})$")
_CLASS_LIST_LINE = re.compile(r"\S+\s+(-1|0|1)$")


@dataclass(frozen=True)
class VocRoot:
    """Where the parts of one VOC set lie.

    Attributes:
        lists: the split files; empty for a folder without `ImageSets/Main`.
        year: of an official set, `2007`; else empty.
        split: what the images belong to where there are no lists.
    """

    folder: Path
    images: Path
    annotations: Path
    lists: tuple[Path, ...]
    year: str = ""
    split: str = "all"


@dataclass(frozen=True)
class _Object:
    name: str
    box_xyxy: tuple[float, float, float, float]
    difficult: bool
    line: int


@dataclass(frozen=True)
class _Parsed:
    """One image before its class names have become labels."""

    image_id: str
    xml: Path
    image: Path
    header: ImageHeader
    objects: tuple[_Object, ...]


def find_roots(path: Path) -> list[VocRoot]:
    """The VOC sets at a path; empty if there are none.

    The path itself; or the `VOC2007`, `VOC2012`, ... in it or in its `VOCdevkit`; or its folders `train`, `test`, ...
    that hold images and XML files.
    """
    if _has_lists(path):
        return [_root(path)]
    for devkit in (path, path / "VOCdevkit"):
        years = [
            folder for folder in _folders(devkit) if _YEAR.search(folder.name) and (folder / "Annotations").is_dir()
        ]
        if years:
            return [_root(folder) for folder in years]
    bare = _root(path)
    if _has_xml(bare):
        return [bare]
    return [root for folder in _folders(path) if _has_xml(root := replace(_root(folder), split=folder.name))]


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir()) if path.is_dir() else []


def _xml_files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("*.xml") if not path.name.startswith("."))


def _has_xml(root: VocRoot) -> bool:
    return next(_xml_files(root.annotations), None) is not None


def _has_lists(path: Path) -> bool:
    return any((path / "ImageSets" / "Main").glob("*.txt"))


def _root(path: Path) -> VocRoot:
    def first(*names: str) -> Path:
        return next((path / name for name in names if (path / name).is_dir()), path)

    year = _YEAR.search(path.name)
    return VocRoot(
        folder=path,
        images=first("JPEGImages", "images", "Images"),
        annotations=first("Annotations", "annotations", "xmls"),
        lists=tuple(sorted((path / "ImageSets" / "Main").glob("*.txt"))),
        year=year.group(1) if year else "",
    )


def read_voc(
    path: Path, roots: Sequence[VocRoot], classes: Sequence[str] | None = None, track: Track = untracked
) -> Dataset:
    """Read the VOC sets that `find_roots` found.

    Several years become one set: a split that more than one of them has holds the images of all, and stands once more
    a year: `trainval`, `2007_trainval`, `2012_trainval`.
    """
    log = FaultLog()
    parsed = [_read_root(root, log, track) for root in roots]
    names = _class_names(parsed, roots, classes)
    index = {name: label for label, name in enumerate(names)}
    clash = len(roots) > 1 and _ids_clash(parsed)
    merged: dict[str, tuple[Sample, ...]] = {}
    for root, splits in zip(roots, parsed):
        made: dict[str, Sample] = {}
        for split, images in splits.items():
            for image in images:
                if image.image_id not in made:
                    image_id = f"{root.year or root.split}/{image.image_id}" if clash else image.image_id
                    made[image.image_id] = _sample(image, image_id, index, log)
            samples = tuple(made[image.image_id] for image in images)
            merged[split] = merged.get(split, ()) + samples
            if sum(split in other for other in parsed) > 1:
                merged[f"{root.year}_{split}"] = samples
    return Dataset(path.name or str(path), names, merged, log.as_tuple())


def _ids_clash(parsed: Sequence[dict[str, list[_Parsed]]]) -> bool:
    ids = [{image.image_id for images in splits.values() for image in images} for splits in parsed]
    return sum(map(len, ids)) > len(set().union(*ids))


def _class_names(
    parsed: Sequence[dict[str, list[_Parsed]]], roots: Sequence[VocRoot], classes: Sequence[str] | None
) -> tuple[str, ...]:
    if classes is not None:
        return tuple(classes)
    found = {
        thing.name for splits in parsed for images in splits.values() for image in images for thing in image.objects
    }
    # A cut of the official set keeps its 20 classes; a folder of cats and dogs has two.
    if found <= set(VOC_CLASSES) and (len(found) == len(VOC_CLASSES) or any(root.year for root in roots)):
        return VOC_CLASSES
    listed = roots[0].folder / CLASSES_FILE
    if listed.is_file():
        names = tuple(line.strip() for line in listed.read_text("utf-8", "replace").splitlines() if line.strip())
        if found <= set(names) and len(set(names)) == len(names):  # else it is another tool's, or out of date
            return names
    return tuple(sorted(found))


def _sample(parsed: _Parsed, image_id: str, index: dict[str, int], log: FaultLog) -> Sample:
    objects = ObjectList(parsed.header.size_hw, log)
    for thing in parsed.objects:
        if thing.name not in index:
            log.add(UNKNOWN_CLASS, parsed.xml, f"class {thing.name!r} is none of: {', '.join(index)}", thing.line)
            continue
        objects.add(thing.box_xyxy, index[thing.name], parsed.xml, thing.line, difficult=thing.difficult)
    return Sample(image_id, parsed.image, parsed.header.size_hw, objects.annotations())


def _read_root(root: VocRoot, log: FaultLog, track: Track) -> dict[str, list[_Parsed]]:
    images = ImageFolder(root.images)
    lists = {path.stem: _read_list(path, log) for path in root.lists if not _is_class_list(path)}
    if lists:
        return _read_lists(root, images, lists, log, track)
    found: list[_Parsed] = []
    paths = sorted(_xml_files(root.annotations))
    for xml in track(paths, len(paths), f"reading {root.folder.name}"):
        try:
            found.append(_read_image(xml.stem, xml, images, log))
        except Faulty as faulty:
            log.add_faulty(faulty)
    labelled = {xml.stem for xml in paths}
    for image in list_images(root.images):
        if image.stem not in labelled:
            log.add(MISSING_LABEL, image, f"there is no {root.annotations / image.stem}.xml for this image")
    return {root.split: found}


def _is_class_list(path: Path) -> bool:
    """Whether this is one of the official `<class>_<split>.txt`, whose lines are an image and -1, 0 or 1."""
    prefix, _, split = path.stem.rpartition("_")
    if not prefix or not path.with_name(f"{split}.txt").is_file():
        return False
    with open(path, encoding="utf-8", errors="replace") as lines:
        return all(_CLASS_LIST_LINE.match(line.strip()) for line, _ in zip(lines, range(10)) if line.strip())


def _read_list(path: Path, log: FaultLog) -> list[tuple[str, int]]:
    """The image names in a split file, each with its line."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not any(line.strip() for line in lines):
        log.add(EMPTY_FILE, path, "the list of images is empty")
    first_lines: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if name in first_lines:
            log.add(DUPLICATE_ID, path, f"image {name!r} is listed again; first in line {first_lines[name]}", number)
        elif name.startswith("/") or ".." in name.split("/"):
            log.add(MALFORMED_FILE, path, f"{name!r} is not the name of an image inside the set", number)
        elif name:
            first_lines[name] = number
    return list(first_lines.items())


def _read_lists(
    root: VocRoot, images: ImageFolder, lists: dict[str, list[tuple[str, int]]], log: FaultLog, track: Track
) -> dict[str, list[_Parsed]]:
    where = {name: (path, line) for path in root.lists for name, line in lists.get(path.stem, ())}
    read: dict[str, _Parsed] = {}
    for name, (path, line) in track(where.items(), len(where), f"reading {root.folder.name}"):
        xml = root.annotations / f"{name}.xml"
        try:
            if not xml.exists():
                reject(MISSING_LABEL, path, f"image {name!r} is listed, but there is no {xml}", line)
            read[name] = _read_image(name, xml, images, log, (path, line))
        except Faulty as faulty:
            log.add_faulty(faulty)
    return {split: [read[name] for name, _ in names if name in read] for split, names in lists.items()}


def _read_image(
    image_id: str, xml: Path, images: ImageFolder, log: FaultLog, listed: tuple[Path, int] | None = None
) -> _Parsed:
    root = read_xml(xml)
    if root.tag != "annotation":
        reject(MALFORMED_FILE, xml, f"the root element is <{root.tag}>, not <annotation>", root.line)
    image = _find_image(image_id, xml, root, images, log, listed)
    header = read_header(image)
    size = root.child("size")
    if size is not None:
        _check_size(size, header, xml, log)
    objects = tuple(thing for node in root.all("object") if (thing := _read_object(node, xml, log)) is not None)
    return _Parsed(image_id, xml, image, header, objects)


def _find_image(
    image_id: str, xml: Path, root: Node, images: ImageFolder, log: FaultLog, listed: tuple[Path, int] | None
) -> Path:
    found = images.find_all(image_id)
    if len(found) > 1:
        others = ", ".join(path.name for path in found[1:])
        log.add(DUPLICATE_ID, found[0], f"other images have the same name: {others}; this one is taken")
    if found:
        return found[0]
    named = root.child("filename")
    if named is not None and named.text:
        image = images.folder / Path(named.text).name
        if image.is_file():
            return image
    path, line = listed or (xml, named.line if named is not None else None)
    reject(MISSING_IMAGE, path, f"there is no image {images.folder / image_id}.*", line)


def _check_size(size: Node, header: ImageHeader, xml: Path, log: FaultLog) -> None:
    try:
        stated = int(float(size.text_of("height"))), int(float(size.text_of("width")))
    except (ValueError, OverflowError):
        log.add(MALFORMED_OBJECT, xml, "<size> holds no width and height; the image's own are taken", size.line)
        return
    check_stated_size(stated, header, xml, log, size.line)


def _read_object(node: Node, xml: Path, log: FaultLog) -> _Object | None:
    name, box = node.text_of("name"), node.child("bndbox")
    if not name:
        log.add(MALFORMED_OBJECT, xml, "an <object> has no <name>; left out", node.line)
        return None
    if box is None:
        log.add(MALFORMED_OBJECT, xml, f"the object {name!r} has no <bndbox>; left out", node.line)
        return None
    try:
        xmin, ymin, xmax, ymax = (float(box.text_of(tag)) for tag in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        found = ", ".join(f"{tag}={box.text_of(tag)!r}" for tag in ("xmin", "ymin", "xmax", "ymax"))
        log.add(MALFORMED_OBJECT, xml, f"the <bndbox> of {name!r} is not four numbers ({found}); left out", box.line)
        return None
    difficult = node.child("difficult")
    if difficult is not None and difficult.text not in ("0", "1", "", "Unspecified"):
        log.add(MALFORMED_OBJECT, xml, f"<difficult> is {difficult.text!r}, not 0 or 1; taken as 0", difficult.line)
    hard = difficult is not None and difficult.text == "1"
    return _Object(name, (xmin - 1, ymin - 1, xmax, ymax), hard, box.line)


def annotation_xml(image_name: str, size_hw: tuple[int, int], annotations: Annotations, classes: Sequence[str]) -> str:
    """The VOC file of one image."""
    lines = [
        "<annotation>",
        f"\t<filename>{escape(image_name)}</filename>",
        f"\t<size><width>{size_hw[1]}</width><height>{size_hw[0]}</height><depth>3</depth></size>",
        "\t<segmented>0</segmented>",
    ]
    for box, label, difficult in zip(annotations.boxes_xyxy, annotations.labels, annotations.difficult):
        corners = zip(("xmin", "ymin", "xmax", "ymax"), box.astype(float) + np.array([1, 1, 0, 0]))
        lines += [
            "\t<object>",
            f"\t\t<name>{escape(classes[label])}</name>",
            "\t\t<pose>Unspecified</pose>",
            "\t\t<truncated>0</truncated>",
            f"\t\t<difficult>{int(difficult)}</difficult>",
            "\t\t<bndbox>" + "".join(f"<{tag}>{value:.10g}</{tag}>" for tag, value in corners) + "</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>"]) + "\n"


def list_text(image_ids: Iterable[str]) -> str:
    """An `ImageSets/Main` file: an image a line."""
    return "".join(f"{image_id}\n" for image_id in image_ids)
