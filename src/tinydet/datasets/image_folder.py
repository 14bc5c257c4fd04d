"""Image folders: a folder of images for each class, as classification sets such as ImageNet come.

    folder/cat/*.jpg                 split in two by the seed, or
    folder/train/cat/*.jpg, folder/val/cat/*.jpg   as it is.

Each image is a sample with one box, the whole image, whose label is its class.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from tinydet.datasets.faults import FaultLog, Faulty
from tinydet.datasets.images import list_images, read_header
from tinydet.datasets.split import split_dataset
from tinydet.datasets.tracking import Track, untracked
from tinydet.errors import InputError
from tinydet.records import Annotations, Dataset, Sample

_VALIDATION_NAMES = ("val", "valid", "validation", "test")


def open_image_folder(
    path: str | os.PathLike[str], seed: int = 0, validation_share: float = 0.2, track: Track = untracked
) -> Dataset:
    """A data set with the splits `train` and `val`; images that cannot be read are its faults.

    Args:
        seed, validation_share: of the split, where the folder has none of its own.

    Raises:
        InputError: there is no such folder, there are fewer than two classes with images, or the two splits differ in
            their classes.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with a folder of images for each class")
    if not 0 < validation_share < 1:
        raise InputError(f"validation share {validation_share}: expected a number between 0 and 1")
    validation = next((folder / name for name in _VALIDATION_NAMES if (folder / name).is_dir()), None)
    log = FaultLog()
    if (folder / "train").is_dir() and validation is not None:
        classes = _classes(folder / "train")
        unknown = sorted(set(_class_folders(validation)) - set(classes))
        if unknown:
            raise InputError(
                f"{validation}: {len(unknown)} classes that train has not, the first {unknown[0]}; "
                f"train has {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"
            )
        splits = {
            name: _samples(folder, part, classes, log, track)
            for name, part in (("train", folder / "train"), ("val", validation))
        }
        _refuse_empty(splits, folder, log)
        return Dataset(folder.name, classes, splits, log.as_tuple())
    classes = _classes(folder)
    splits = {"all": _samples(folder, folder, classes, log, track)}
    _refuse_empty(splits, folder, log)
    whole = Dataset(folder.name, classes, splits, log.as_tuple())
    return split_dataset(whole, (1 - validation_share, validation_share), seed, ("train", "val"))


def _class_folders(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))


def _classes(folder: Path) -> tuple[str, ...]:
    classes = tuple(name for name in _class_folders(folder) if list_images(folder / name, deep=True))
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise InputError(
            f"{folder}: expected a folder of images for each of at least two classes, found {found}; "
            "such as folder/cat/1.jpg and folder/dog/1.jpg, or these within folder/train and folder/val"
        )
    return classes


def _samples(root: Path, folder: Path, classes: tuple[str, ...], log: FaultLog, track: Track) -> tuple[Sample, ...]:
    labelled = [
        (image, label)
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for image in list_images(folder / name, deep=True)
    ]
    samples = []
    for image, label in track(labelled, len(labelled), f"reading {folder.name}"):
        try:
            height, width = read_header(image).size_hw
        except Faulty as faulty:
            log.add_faulty(faulty)
            continue
        whole = Annotations(np.array([[0, 0, width, height]], np.float32), np.array([label]))
        samples.append(Sample(image.relative_to(root).as_posix(), image, (height, width), whole))
    return tuple(samples)


def _refuse_empty(splits: dict[str, tuple[Sample, ...]], folder: Path, log: FaultLog) -> None:
    for name, samples in splits.items():
        readable = {int(sample.annotations.labels[0]) for sample in samples}
        if len(readable) < 2:
            first = f"; the first fault: {log.as_tuple()[0]}" if len(log) else ""
            raise InputError(f"{folder}: {name} has readable images of {len(readable)} classes, expected two{first}")
