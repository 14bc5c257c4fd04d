"""Splits by seed, and writing them beside the data in the layout they have."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml

from tinydet.datasets import coco, voc, yolo
from tinydet.datasets.faults import in_words
from tinydet.datasets.open import Source
from tinydet.errors import InputError
from tinydet.files import write_text
from tinydet.records import Dataset, Sample

DEFAULT_NAMES = {2: ("train", "val"), 3: ("train", "val", "test")}
_TRIES = 100


def unique_samples(dataset: Dataset) -> tuple[Sample, ...]:
    """Every image once, though `train` and `trainval` share it."""
    found = {sample.image_id: sample for samples in dataset.splits.values() for sample in samples}
    return tuple(found.values())


def split_dataset(
    dataset: Dataset,
    fractions: Sequence[float] = (0.8, 0.2),
    seed: int = 0,
    names: Sequence[str] | None = None,
    of: str | None = None,
) -> Dataset:
    """Split the images at random; the same seed gives the same splits, whatever the order of the files.

    Among 100 shuffles the first is taken that puts every class into every split, or the one that comes nearest.

    Args:
        fractions: of each new split; they sum to 1.
        names: by default train, val, and with three fractions test.
        of: the split that is divided, the others staying as they are; by default all images are pooled.

    Raises:
        InputError: the fractions do not sum to 1, or are more than there are images; the seed is negative.
    """
    names = tuple(names) if names is not None else DEFAULT_NAMES.get(len(fractions), ())
    if len(names) != len(fractions) or len(set(names)) != len(names):
        raise InputError(f"{len(fractions)} fractions need as many different names of splits; found {', '.join(names)}")
    if any(not fraction > 0 for fraction in fractions) or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"fractions {', '.join(f'{f:g}' for f in fractions)}: expected numbers above 0 that sum to 1")
    if seed < 0:
        raise InputError(f"seed {seed}: expected 0 or more")
    pool = sorted(dataset.split(of) if of else unique_samples(dataset), key=lambda sample: sample.image_id)
    cuts = [0, *(round(float(cut) * len(pool)) for cut in np.cumsum(fractions))]
    if any(end <= start for start, end in pairwise(cuts)):
        why = f"; faults found: {in_words(dataset.faults)}; the first: {dataset.faults[0]}" if dataset.faults else ""
        raise InputError(f"{dataset.name}: {len(pool)} images are too few for {len(fractions)} splits{why}")
    order = _best_order(pool, cuts, seed)
    parts = {name: _in_order(pool, order[start:end]) for name, (start, end) in zip(names, pairwise(cuts))}
    return replace(dataset, splits=(dataset.splits | parts) if of else parts)


def _in_order(pool: Sequence[Sample], chosen: Sequence[int]) -> tuple[Sample, ...]:
    return tuple(pool[index] for index in sorted(chosen))


def _best_order(pool: Sequence[Sample], cuts: Sequence[int], seed: int) -> list[int]:
    classes_of = [set(sample.annotations.labels.tolist()) for sample in pool]
    wanted = len(set().union(*classes_of)) * (len(cuts) - 1)
    rng = np.random.default_rng(seed)
    best: list[int] = []
    most = -1
    for _ in range(_TRIES):
        order = rng.permutation(len(pool)).tolist()
        covered = sum(len(set().union(*(classes_of[i] for i in order[a:b]))) for a, b in pairwise(cuts))
        if covered > most:
            best, most = order, covered
        if covered == wanted:
            break
    return best


def write_splits(dataset: Dataset, source: Source, names: Sequence[str], overwrite: bool = False) -> list[Path]:
    """Write splits beside the data: VOC's `ImageSets/Main`, COCO's `instances_*.json`, YOLO's lists and `data.yaml`.

    What they take the place of is kept under its name with `.old` added.

    Args:
        names: the new splits; those of the source that `dataset` no longer has are put aside.

    Returns:
        The files written.

    Raises:
        InputError: there are such files (unless `overwrite`), the folder cannot be written to, or the layout has no
            place for new splits; then `convert_dataset` writes them elsewhere.
    """
    splits = {name: dataset.splits[name] for name in names}
    if source.layout == "voc" and len(source.voc_roots) == 1:
        contents = _voc_lists(source.voc_roots[0], splits)
        stale = [path for path in source.voc_roots[0].lists if path.stem not in dataset.splits]
    elif source.layout == "coco" and len(source.coco_files) == 1:
        contents, stale = _coco_files(source.coco_files[0], splits), []
    elif source.yolo_source is not None:
        contents, stale = _yolo_files(source.yolo_source, splits, tuple(dataset.splits)), []
    else:
        raise InputError(f"{source.root}: its layout has no place for new splits; give --out FOLDER to write a copy")
    rewritten = [source.yolo_source.file] if source.yolo_source is not None else []
    present = [path for path in [*contents, *stale] if path.exists()]
    blocking = [path for path in present if path not in rewritten]
    if blocking and not overwrite:
        raise InputError(
            f"{blocking[0]} exists; give --force to put it aside as {blocking[0].name}.old, or --out FOLDER"
        )
    for locked in filter(None, (_locked_folder(path.parent) for path in contents)):
        raise InputError(f"{locked} is marked read-only; give --out FOLDER to write a copy of the set with its splits")
    try:
        for path in present:
            os.replace(path, path.with_name(path.name + ".old"))
        for path, text in contents.items():
            write_text(path, text)
    except OSError as error:
        raise InputError(f"{source.root}: cannot be written to ({error.strerror}); give --out FOLDER") from error
    return list(contents)


def _locked_folder(folder: Path) -> Path | None:
    """The folder that would be written into, if nobody may by its mode, which the superuser's writing passes over."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return None if there.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) else there


def _voc_lists(root: voc.VocRoot, splits: Mapping[str, Sequence[Sample]]) -> dict[Path, str]:
    folder = root.folder / "ImageSets" / "Main"
    return {folder / f"{name}.txt": voc.list_text(s.image_id for s in samples) for name, samples in splits.items()}


def _coco_files(file: Path, splits: Mapping[str, Sequence[Sample]]) -> dict[Path, str]:
    """The source's own content cut to each split, with all that tinydet does not read: masks, licences, ..."""
    content = json.loads(file.read_text(encoding="utf-8-sig"))
    texts = {}
    for name, samples in splits.items():
        ids = {sample.image_id for sample in samples}
        part = content | {
            "images": [i for i in content["images"] if isinstance(i, dict) and str(i.get("id")) in ids],
            "annotations": [
                a for a in content.get("annotations", []) if isinstance(a, dict) and str(a.get("image_id")) in ids
            ],
        }
        texts[file.parent / f"instances_{name}.json"] = coco.file_text(part)
    return texts


def _yolo_files(
    source: yolo.YoloSource, splits: Mapping[str, Sequence[Sample]], kept: Sequence[str]
) -> dict[Path, str]:
    texts = {source.folder / f"{name}.txt": yolo.list_text(samples, source.folder) for name, samples in splits.items()}
    lists = {name: f"{name}.txt" for name in splits}
    if source.file.suffix not in (".yaml", ".yml"):
        names = list(source.names.values())
        return texts | {source.folder / "data.yaml": yolo.yaml_text(list(splits), names)}
    content = yaml.safe_load(source.file.read_text(encoding="utf-8"))
    content = {key: value for key, value in content.items() if key not in source.splits or key in kept} | lists
    if source.folder == source.file.parent:
        content.pop("path", None)  # the lists lie beside the file
    return texts | {source.file: yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}
