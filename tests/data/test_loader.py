"""Batches on real and broken files: the same for any number of threads and processes."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tinydet.data import NO_AUGMENTATION, AugmentConfig, Batch, Loader, make_loader
from tinydet.data.loader import PixelCache
from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing
from tinydet.records import Annotations, Sample

PREPROCESSING = Preprocessing(shorter_side=16, longer_side=24)
AUGMENT = AugmentConfig(0.5, (12, 16))
SIZES_HW = ((20, 30), (30, 20), (25, 25))


def samples_in(folder: Path, count: int = 6) -> list[Sample]:
    random = np.random.default_rng(0)
    samples = []
    for index in range(count):
        height, width = SIZES_HW[index % 3]
        path = folder / f"{index}.png"
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        samples.append(Sample(str(index), path, (height, width), Annotations([[2, 2, 10, 12]], [index % 2])))
    return samples


def assert_same(first: Batch, second: Batch) -> None:
    assert torch.equal(first.images, second.images)
    assert first.view_ids == second.view_ids
    assert first.sizes_hw == second.sizes_hw
    for a, b in zip(first.targets, second.targets, strict=True):
        assert torch.equal(a.boxes_xyxy, b.boxes_xyxy)
        assert torch.equal(a.labels, b.labels)


def loader_of(samples: list[Sample], **changes: object) -> Loader:
    settings: dict[str, object] = {"batch_size": 4, "augment": AUGMENT, "seed": 5, "workers": 0}
    return make_loader(samples, PREPROCESSING, **{**settings, **changes})  # type: ignore[arg-type]


def test_a_batch_holds_its_images_and_boxes(tmp_path: Path) -> None:
    samples = samples_in(tmp_path)
    batch = loader_of(samples, augment=NO_AUGMENTATION).batch(0)
    assert len(batch) == 4
    assert batch.images.dtype == torch.float32
    by_id = {sample.image_id: sample for sample in samples}
    for place, image_id in enumerate(batch.image_ids):
        height, width = batch.sizes_hw[place]
        expected = PREPROCESSING(by_id[image_id].open_image()).transpose(2, 0, 1)
        assert np.array_equal(batch.images[place, :, :height, :width].numpy(), expected)
        assert not batch.images[place, :, height:].any()
        assert not batch.images[place, :, :, width:].any()
        assert batch.original_sizes_hw[place] == by_id[image_id].size_hw
        scale = height / by_id[image_id].size_hw[0]
        assert batch.targets[place].boxes_xyxy[0, 1].item() == pytest.approx(2 * scale)


def test_threads_make_the_same_batches(tmp_path: Path) -> None:
    samples = samples_in(tmp_path)
    plain = list(loader_of(samples).batches(3, 15))
    assert len(plain) == 12
    for first, second in zip(plain, loader_of(samples, workers=3).batches(3, 15), strict=True):
        assert_same(first, second)


def test_the_cache_changes_nothing_and_is_bounded(tmp_path: Path) -> None:
    samples = samples_in(tmp_path)
    cached, uncached = loader_of(samples, cache_bytes=3000), loader_of(samples, cache_bytes=0)
    for step in range(8):
        assert_same(cached.batch(step), uncached.batch(step))
    assert 0 < cached._cache.held_bytes <= 3000
    assert uncached._cache.held_bytes == 0
    for sample in samples:
        assert isinstance(sample.image, Path)
        sample.image.unlink()
    full = loader_of(samples_in(tmp_path), augment=NO_AUGMENTATION)
    before = [full.batch(step) for step in range(3)]
    for sample in full.samples:
        assert isinstance(sample.image, Path)
        sample.image.unlink()
    for step in range(3):
        assert_same(full.batch(step), before[step])  # from memory


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_same_batch(tmp_path: Path, world_size: int) -> None:
    loader = loader_of(samples_in(tmp_path))
    for step in range(5):
        whole = loader.batch(step)
        parts = [loader.batch(step, rank, world_size) for rank in range(world_size)]
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert sum((part.view_ids for part in parts), ()) == whole.view_ids


def test_the_same_view_name_has_the_same_pixels(tmp_path: Path) -> None:
    loader = loader_of(samples_in(tmp_path, 3))
    seen: dict[str, torch.Tensor] = {}
    met_again = 0
    for batch in loader.batches(0, 20):
        for place, name in enumerate(batch.view_ids):
            pixels = batch.of_image(place).images
            met_again += name in seen
            assert torch.equal(seen.setdefault(name, pixels), pixels)
    assert met_again > 20
    assert len(seen) == 3 * 2 * 2


@pytest.mark.parametrize("workers", [0, 3])
def test_unreadable_samples_are_named_once_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    samples = samples_in(tmp_path)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    (tmp_path / "4.png").unlink()
    loader = loader_of(samples, workers=workers)
    with caplog.at_level(logging.WARNING):
        batches = list(loader.batches(0, 12))
    assert sorted(loader.skipped) == ["1", "4"]
    assert len(caplog.records) == 2
    assert sum("1.png" in record.getMessage() for record in caplog.records) == 1
    assert any("(2 so far)" in record.getMessage() for record in caplog.records)
    assert {image_id for batch in batches for image_id in batch.image_ids} == {"0", "2", "3", "5"}
    assert all(len(batch) == 4 for batch in batches)
    for step, batch in enumerate(batches):  # a loader that knows already gives the same
        assert_same(batch, loader.batch(step))


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_readable_is_one_clear_error(tmp_path: Path, workers: int) -> None:
    samples = samples_in(tmp_path, 3)
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"none of the 3 samples can be read; the first: .*\.png: not a readable image"
    ):
        next(loader_of(samples, workers=workers).batches(0, 5))


def test_no_samples_and_wrong_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sample to train on"):
        make_loader([], PREPROCESSING, 2)
    with pytest.raises(InputError, match="batch size 0"):
        loader_of(samples_in(tmp_path), batch_size=0)


def test_another_order_of_samples_is_another_description(tmp_path: Path) -> None:
    samples = samples_in(tmp_path)
    assert loader_of(samples).description() == loader_of(list(samples)).description()
    assert loader_of(samples).description() != loader_of(samples[::-1]).description()


def test_the_cache_never_exceeds_its_limit() -> None:
    cache = PixelCache(100)
    for index in range(5):
        cache.keep((index, None), (np.zeros((5, 5, 2), np.uint8), (5, 5)))
    assert cache.held_bytes == 100
    assert cache.get((1, None)) is not None
    assert cache.get((2, None)) is None


def test_real_photographs_load(shared: Path) -> None:
    files = sorted((shared / "data" / "BCCD").rglob("*.jpg"))[:4]
    if not files:
        pytest.skip("needs BCCD's images")
    samples = []
    for path in files:
        with Image.open(path) as image:
            samples.append(Sample(path.stem, path, (image.height, image.width), Annotations([[5, 5, 50, 60]], [0])))
    batch = make_loader(samples, Preprocessing(shorter_side=120, longer_side=200), 4, NO_AUGMENTATION).batch(0)
    assert min(batch.sizes_hw[0]) == 120
    assert batch.images.mean() > 50
