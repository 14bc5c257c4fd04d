"""Samples to batches: decoding, augmenting and padding, in threads ahead of the training where cores are free."""

from __future__ import annotations

import logging
import os
import threading
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tinydet.config import to_plain
from tinydet.data.batch import Batch, Target
from tinydet.data.order import Place, global_batch, share_of
from tinydet.data.ssd_augment import SSDAugmentConfig
from tinydet.data.transforms import Augment, AugmentConfig, View, draw_view, render_view, resized_pixels
from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing
from tinydet.records import Sample

log = logging.getLogger("tinydet")

Pixels = NDArray[np.uint8]


class Loader:
    """An endless sequence of training batches, any one of which can be asked for by its step.

    The batch of a step is a pure function of (samples, configuration, seed, step, rank, world size), and all ranks'
    batches together are the same global batch whatever their number. A sample whose image cannot be read is named once
    and replaced by the next one that can be.

    Attributes:
        skipped: why, by image id, for each sample that could not be read so far.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        preprocessing: Preprocessing,
        batch_size: int,
        augment: Augment,
        seed: int,
        cache_bytes: int,
        workers: int,
    ) -> None:
        if not samples:
            raise InputError("there is no sample to train on")
        if batch_size < 1 or seed < 0:
            raise InputError(f"batch size {batch_size} must be at least 1, seed {seed} at least 0")
        if isinstance(augment, SSDAugmentConfig) and preprocessing.fixed_size_hw is None:
            raise InputError("SSD's augmentation makes images of one size: set the preprocessing's fixed_size_hw")
        self.samples, self.preprocessing, self.augment = tuple(samples), preprocessing, augment
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.skipped: dict[str, str] = {}
        self._unreadable: set[int] = set()
        self._lock = threading.Lock()
        self._cache = PixelCache(cache_bytes)

    def description(self) -> dict[str, Any]:
        """What determines the batches, as plain values; a run is resumed only if it is the same."""
        return {
            "samples": len(self.samples),
            "samples_crc32": zlib.crc32("\n".join(sample.image_id for sample in self.samples).encode()),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "augment": to_plain(self.augment),
        }

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """One process's part of the batch of a step, from 0.

        All parts are padded to the global batch's size, as one process would pad them.

        Raises:
            InputError: no sample at all can be read, or the batch cannot be shared equally.
        """
        places = global_batch(len(self.samples), self.batch_size, self.seed, step)
        views = [self._view(place) for place in places]
        part = share_of(self.batch_size, rank, world_size)
        rendered = [self._render(place, view) for place, view in zip(places[part], views[part])]
        expected = [
            self.preprocessing.resized_hw(self.samples[place.index].size_hw, view.shorter_side)
            for place, view in zip(places, views)
        ]
        return collate(rendered, at_least_hw=(max(h for h, _ in expected), max(w for _, w in expected)))

    def batches(self, start: int, stop: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """The batches of steps `start` to `stop - 1`, made ahead by the worker threads."""
        if not self.workers:
            yield from (self.batch(step, rank, world_size) for step in range(start, stop))
            return
        # Threads, not processes: Pillow decodes and resizes without holding the interpreter, and the cache is shared.
        with ThreadPoolExecutor(self.workers, "tinydet-loader") as pool:
            ahead: deque[Future[Batch]] = deque()
            try:
                for step in range(start, stop):
                    while len(ahead) <= self.workers and step + len(ahead) < stop:
                        ahead.append(pool.submit(self.batch, step + len(ahead), rank, world_size))
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _view(self, place: Place) -> View:
        return draw_view(self.augment, self.seed, place.epoch, place.index)

    def _render(self, place: Place, view: View) -> Rendered:
        """The sample at `place`, or the next readable one in the same view."""
        for offset in range(len(self.samples)):
            index = (place.index + offset) % len(self.samples)
            if index in self._unreadable:
                continue
            try:
                pixels, original_hw = self._pixels(index, view)
            except InputError as error:
                self._skip(index, error)
                continue
            sample = self.samples[index]
            view_pixels, target = render_view(pixels, original_hw, sample.annotations, view, self.preprocessing)
            return Rendered(sample.image_id, view.name(sample.image_id), view_pixels, original_hw, target)
        first = next(iter(self.skipped.values()))
        raise InputError(f"none of the {len(self.samples)} samples can be read; the first: {first}")

    def _pixels(self, index: int, view: View) -> tuple[Pixels, tuple[int, int]]:
        key = (index, view.shorter_side)
        found = self._cache.get(key)
        if found is None:
            found = resized_pixels(self.samples[index], self.preprocessing, view)
            self._cache.keep(key, found)
        return found

    def _skip(self, index: int, error: InputError) -> None:
        with self._lock:
            if index in self._unreadable:
                return
            self._unreadable.add(index)
            self.skipped[self.samples[index].image_id] = str(error)
            log.warning("sample %r is skipped (%d so far): %s", self.samples[index].image_id, len(self.skipped), error)


@dataclass(frozen=True, eq=False)
class Rendered:
    """One view, ready to be put into a batch. `target` is None where the image is only to be detected in."""

    image_id: str
    view_id: str
    pixels: Pixels
    original_hw: tuple[int, int]
    target: Target | None


class PixelCache:
    """Decoded and resized images, until `limit_bytes` are held.

    Nothing is ever dropped: every epoch meets every image once, so whichever images are kept are as good as any others,
    while dropping the least recent would drop those that are due next.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.held_bytes = limit_bytes, 0
        self._kept: dict[tuple[int, int | None], tuple[Pixels, tuple[int, int]]] = {}
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int | None]) -> tuple[Pixels, tuple[int, int]] | None:
        return self._kept.get(key)

    def keep(self, key: tuple[int, int | None], value: tuple[Pixels, tuple[int, int]]) -> None:
        with self._lock:
            if key not in self._kept and self.held_bytes + value[0].nbytes <= self.limit_bytes:
                self._kept[key] = value
                self.held_bytes += value[0].nbytes


def collate(rendered: Sequence[Rendered], at_least_hw: tuple[int, int] = (0, 0)) -> Batch:
    """Views to one batch, padded right and below with zeros to the largest of them, and to `at_least_hw`."""
    height = max(at_least_hw[0], *(view.pixels.shape[0] for view in rendered))
    width = max(at_least_hw[1], *(view.pixels.shape[1] for view in rendered))
    images = torch.zeros(len(rendered), rendered[0].pixels.shape[2], height, width)  # [B, C, H, W]
    for image, view in zip(images, rendered):
        pixels = torch.from_numpy(np.array(view.pixels.transpose(2, 0, 1), order="C"))
        image[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return Batch(
        images=images,
        sizes_hw=tuple((view.pixels.shape[0], view.pixels.shape[1]) for view in rendered),
        original_sizes_hw=tuple(view.original_hw for view in rendered),
        targets=tuple(view.target for view in rendered if view.target is not None),
        image_ids=tuple(view.image_id for view in rendered),
        view_ids=tuple(view.view_id for view in rendered),
    )


def make_loader(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    batch_size: int,
    augment: Augment | None = None,
    seed: int = 0,
    *,
    cache_bytes: int = 2**29,
    workers: int | None = None,
) -> Loader:
    """Training batches of `samples`.

    Args:
        batch_size: images in a step, over all processes.
        augment: None for the default.
        cache_bytes: memory for decoded and resized images; small sets are then decoded once, not every epoch.
        workers: threads that make batches ahead; None for as many as there are cores to spare, none on two cores.

    Raises:
        InputError: there is no sample, or a number is out of range.
    """
    workers = spare_cores() if workers is None else workers
    return Loader(samples, preprocessing, batch_size, augment or AugmentConfig(), seed, cache_bytes, workers)


def spare_cores() -> int:
    """Threads that one process may use beside its own: 0 on two cores, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    here = cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(8, here - 1) if here > 2 else 0
