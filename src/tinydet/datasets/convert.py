"""From one layout to another: every box and class, and the flags that the new layout has a place for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

from PIL import Image

from tinydet.datasets import coco, voc, yolo
from tinydet.datasets.split import unique_samples
from tinydet.datasets.tracking import Track, untracked
from tinydet.errors import InputError
from tinydet.files import replacing_folder
from tinydet.records import Dataset, Sample

WritableLayout = Literal["voc", "coco", "yolo"]
LAYOUTS: tuple[WritableLayout, ...] = get_args(WritableLayout)
_KEEPS = {"voc": {"difficult"}, "coco": {"difficult", "crowd"}, "yolo": set[str]()}
_IMAGE_FOLDERS = {"voc": "JPEGImages", "coco": "images", "yolo": "images"}


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        lost: flags that the layout has no place for, and how many were set; their boxes are all written.
    """

    out: Path
    layout: WritableLayout
    images: int
    boxes: int
    lost: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"out": str(self.out)}


@dataclass(frozen=True)
class _Placed:
    """A sample, and the name of its image below the folder of images."""

    sample: Sample
    stem: str
    suffix: str

    @property
    def file_name(self) -> str:
        return self.stem + self.suffix


def convert_dataset(
    dataset: Dataset,
    layout: WritableLayout,
    out: str | os.PathLike[str],
    *,
    link: bool = False,
    overwrite: bool = False,
    track: Track = untracked,
) -> Conversion:
    """Write a data set in another layout: VOC, COCO or YOLO. The folder appears whole or not at all.

    Args:
        link: hard-link the images where the file system allows, instead of copying them.
        overwrite: replace a folder that is not empty.

    Raises:
        InputError: the layout is not one of these, there is no image, or `out` is in use.
        TinydetError: the disk is full or cannot be written to.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    folder = Path(os.path.abspath(out))
    samples = unique_samples(dataset)
    _check_out(folder, samples, dataset.name, overwrite)
    placed = _place(samples)
    with replacing_folder(folder) as temporary:
        for item in track(placed, len(placed), f"writing {layout}"):
            _write_image(item, temporary / _IMAGE_FOLDERS[layout] / item.file_name, link)
        {"voc": _write_voc, "coco": _write_coco, "yolo": _write_yolo}[layout](dataset, placed, temporary)
    lost = {
        flag: count
        for flag in ("difficult", "crowd")
        if flag not in _KEEPS[layout] and (count := sum(int(getattr(s.annotations, flag).sum()) for s in samples))
    }
    return Conversion(folder, layout, len(samples), sum(len(sample.annotations) for sample in samples), lost)


def _check_out(folder: Path, samples: Sequence[Sample], name: str, overwrite: bool) -> None:
    if not samples:
        raise InputError(f"{name}: there is no usable image to write; `tinydet data check` lists what is wrong")
    if folder.is_file():
        raise InputError(f"{folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise InputError(f"{folder} is not empty; give another folder, or --force to replace it")
    files = (Path(os.path.abspath(sample.image)) for sample in samples if isinstance(sample.image, Path))
    if (inside := next((file for file in files if file.is_relative_to(folder)), None)) is not None:
        raise InputError(f"{folder} holds the data set's own images ({inside}); give another folder")


def _place(samples: Sequence[Sample]) -> list[_Placed]:
    """A name for each image: its id where the file is named after it, else the file's own name, as in COCO's sets.

    Names are made safe (nothing above the folder), and unique by a number where two would be the same.
    """
    placed = []
    taken: set[str] = set()
    for sample in samples:
        parts = [part for part in PurePosixPath(sample.image_id).parts if part not in ("/", "..")]
        suffix = ".png"
        if isinstance(sample.image, Path):
            suffix = sample.image.suffix
            if not parts or parts[-1] != sample.image.stem:
                parts = [sample.image.stem]
        stem = wanted = "/".join(parts) or "image"
        number = 2
        while stem.lower() in taken:
            stem, number = f"{wanted}_{number}", number + 1
        taken.add(stem.lower())
        placed.append(_Placed(sample, stem, suffix))
    return placed


def _write_image(item: _Placed, path: Path, link: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = item.sample.image
    if not isinstance(image, Path):
        Image.fromarray(image).save(path)
        return
    if link:
        try:
            os.link(image.resolve(), path)
            return
        except OSError:
            pass  # another disk, or a file system without links
    shutil.copyfile(image, path)


def _write_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _lists(dataset: Dataset, placed: Sequence[_Placed]) -> dict[str, list[_Placed]]:
    by_id = {item.sample.image_id: item for item in placed}
    return {split: [by_id[sample.image_id] for sample in samples] for split, samples in dataset.splits.items()}


def _write_voc(dataset: Dataset, placed: Sequence[_Placed], folder: Path) -> None:
    for item in placed:
        sample = item.sample
        text = voc.annotation_xml(item.file_name, sample.size_hw, sample.annotations, dataset.classes)
        _write_file(folder / "Annotations" / f"{item.stem}.xml", text)
    for split, items in _lists(dataset, placed).items():
        _write_file(folder / "ImageSets" / "Main" / f"{split}.txt", voc.list_text(item.stem for item in items))
    _write_file(folder / voc.CLASSES_FILE, "".join(f"{name}\n" for name in dataset.classes))


def _write_coco(dataset: Dataset, placed: Sequence[_Placed], folder: Path) -> None:
    names = {item.sample.image_id: item.file_name for item in placed}
    ids = {item.sample.image_id: number for number, item in enumerate(placed, 1)}
    for split, samples in dataset.splits.items():
        content = coco.coco_content(samples, names, ids, dataset.classes)
        _write_file(folder / "annotations" / f"instances_{split}.json", coco.file_text(content))


def _write_yolo(dataset: Dataset, placed: Sequence[_Placed], folder: Path) -> None:
    for item in placed:
        path = yolo.label_path(folder.absolute() / "images" / item.file_name)
        _write_file(path, yolo.label_text(item.sample.annotations, item.sample.size_hw))
    for split, items in _lists(dataset, placed).items():
        _write_file(folder / f"{split}.txt", "".join(f"./images/{item.file_name}\n" for item in items))
    _write_file(folder / "data.yaml", yolo.yaml_text(list(dataset.splits), dataset.classes))
