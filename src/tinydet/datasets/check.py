"""Every fault of a data set, those that only decoding shows among them; and the samples that training can use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tinydet.datasets.faults import in_words
from tinydet.datasets.images import pixel_fault
from tinydet.datasets.tracking import Track, untracked
from tinydet.errors import InputError
from tinydet.records import Dataset, Fault, Sample


def check_dataset(dataset: Dataset, track: Track = untracked) -> tuple[Fault, ...]:
    """All faults: those met when the set was opened, then those of the pixels, for which every image is decoded."""
    paths = _image_files(sample for samples in dataset.splits.values() for sample in samples)
    return dataset.faults + tuple(_pixel_faults(paths, track).values())


def usable_samples(
    dataset: Dataset, split: str, *, decode: bool = True, track: Track = untracked
) -> tuple[Sample, ...]:
    """The samples of a split that training can use; what is left out is counted in one warning on stderr.

    Args:
        decode: decode every image once, so that none fails in the middle of a run.

    Raises:
        InputError: there is no such split, or nothing in it is usable.
    """
    samples = dataset.split(split)
    broken = _pixel_faults(_image_files(samples), track) if decode else {}
    usable = tuple(sample for sample in samples if not isinstance(sample.image, Path) or sample.image not in broken)
    faults = [*dataset.faults, *broken.values()]
    if not usable:
        why = f"; faults found: {in_words(faults)}; the first: {faults[0]}" if faults else ""
        raise InputError(f"{dataset.name}: split {split!r} has no usable image{why}; `tinydet data check` lists all")
    if not any((~(s.annotations.difficult | s.annotations.crowd)).any() for s in usable):
        why = f"; faults found: {in_words(faults)}" if faults else ""
        apart = ", difficult ones and crowds apart" if any(len(sample.annotations) for sample in usable) else ""
        raise InputError(
            f"{dataset.name}: none of the {len(usable)} images of split {split!r} has a labelled object{apart}{why}"
        )
    if faults:
        print(
            f"tinydet: warning: {dataset.name}: {len(faults)} faults were found ({in_words(faults)}); what is faulty "
            f"is left out, {len(usable)} images of split {split!r} are used; `tinydet data check` lists all",
            file=sys.stderr,
        )
    return usable


def _image_files(samples: Iterable[Sample]) -> list[Path]:
    return list(dict.fromkeys(sample.image for sample in samples if isinstance(sample.image, Path)))


def _pixel_faults(paths: list[Path], track: Track) -> dict[Path, Fault]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside the interpreter's lock
        found = track(pool.map(pixel_fault, paths), len(paths), "decoding images")
        return {path: fault for path, fault in zip(paths, found) if fault is not None}
