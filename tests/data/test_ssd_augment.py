from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from tinydet import boxes
from tinydet.data import SSDAugmentConfig, make_loader
from tinydet.data.ssd_augment import SSDView, boxes_in_ssd_view, draw_ssd_view, show_ssd_view
from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing
from tinydet.records import Annotations, Sample

PLAIN = SSDAugmentConfig(
    zoom_out_probability=0, crop_overlaps=(), flip_probability=0, photometric_probability=0, channel_order_probability=0
)
SIZE_HW = (90, 120)
BOXES = np.array([[10, 20, 60, 70], [70, 5, 110, 60]], np.float32)
PREPROCESSING = Preprocessing(fixed_size_hw=(60, 80), mean=(127.5,) * 3, std=(127.5,) * 3)


def picture() -> Image.Image:
    y, x = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]]
    return Image.fromarray(np.stack([x * 2, y * 2, x + y], axis=2).astype(np.uint8))


def views(config: SSDAugmentConfig, count: int = 200) -> list[SSDView]:
    return [draw_ssd_view(config, BOXES, SIZE_HW, np.random.default_rng(seed)) for seed in range(count)]


def test_one_resize_of_a_region_is_zooming_out_and_then_cropping():
    region = (-30, -15, 100, 70)
    fill = (9, 8, 7)
    image = tv_tensors.Image(torch.from_numpy(np.asarray(picture()).copy()).permute(2, 0, 1))
    canvas = F.pad(image, [30, 15, 30, 15], fill=list(fill))
    cropped = F.crop(canvas, 0, 0, 85, 130)
    expected = F.resize(cropped, [85, 130], antialias=True).permute(1, 2, 0).numpy()
    shown = np.asarray(show_ssd_view(SSDView(region), picture(), (85, 130), fill))
    assert np.array_equal(shown, expected)

    moved = tv_tensors.BoundingBoxes(torch.from_numpy(BOXES), format="XYXY", canvas_size=SIZE_HW)
    theirs = F.resize(F.crop(F.pad(moved, [30, 15, 30, 15]), 0, 0, 85, 130), [60, 80])
    ours, inside = boxes_in_ssd_view(SSDView(region), BOXES, (60, 80))
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)
    assert inside.tolist() == [True, True]


def test_a_smaller_view_shows_the_same_scene_as_resizing_the_canvas():
    region = (-60, -45, 180, 135)
    image = Image.new("RGB", (240, 180), (50, 60, 70))
    image.paste(picture(), (60, 45))
    expected = np.asarray(image.resize((80, 60), Image.Resampling.BILINEAR)).astype(int)
    shown = np.asarray(show_ssd_view(SSDView(region), picture(), (60, 80), (50, 60, 70))).astype(int)
    assert np.abs(shown - expected)[17:43, 22:58].max() <= 2  # within the picture, away from its edge
    assert (shown[:14] == (50, 60, 70)).all()


def test_flipping_mirrors_pixels_and_boxes_alike():
    whole = (0, 0, 120, 90)
    plain = np.asarray(show_ssd_view(SSDView(whole), picture(), SIZE_HW, (0, 0, 0)))
    flipped = np.asarray(show_ssd_view(SSDView(whole, flipped=True), picture(), SIZE_HW, (0, 0, 0)))
    assert np.array_equal(plain, np.asarray(picture()))
    assert np.array_equal(flipped, plain[:, ::-1])
    moved, _ = boxes_in_ssd_view(SSDView(whole, flipped=True), BOXES, SIZE_HW)
    assert moved.tolist() == [[60, 20, 110, 70], [10, 5, 50, 60]]


def test_with_everything_off_the_view_is_the_whole_image():
    assert set(views(PLAIN)) == {SSDView((0, 0, 120, 90))}


def test_crops_keep_to_their_rules():
    config = replace(PLAIN, crop_overlaps=(0.5,))
    regions = np.array([view.region_xyxy for view in views(config)], np.float32)
    whole = (regions == (0, 0, 120, 90)).all(axis=1)
    assert 0.35 < whole.mean() < 0.65  # one of two choices
    crops = regions[~whole]
    sides = crops[:, 2:] - crops[:, :2]
    assert (boxes.iou(crops, BOXES).max(axis=1) >= 0.5).all()
    assert (sides >= np.floor([0.3 * 120, 0.3 * 90])).all()
    assert ((sides[:, 0] / sides[:, 1] >= 0.5) & (sides[:, 0] / sides[:, 1] <= 2)).all()
    assert ((crops[:, :2] >= 0) & (crops[:, 2:] <= (120, 90))).all()
    for view in views(replace(PLAIN, crop_overlaps=(0.0,))):
        assert boxes_in_ssd_view(view, BOXES, (60, 80))[1].any()


def test_zooming_out_stays_within_its_range_and_holds_the_image():
    regions = np.array([view.region_xyxy for view in views(replace(PLAIN, zoom_out_probability=0.5))])
    ratio = (regions[:, 2] - regions[:, 0]) / 120
    assert 0.35 < (ratio == 1).mean() < 0.65
    assert ratio.max() <= 4
    assert ratio.max() > 3.5
    assert ((regions[:, :2] <= 0) & (regions[:, 2:] >= (120, 90))).all()


def test_colours_are_torchvisions_and_drawn_within_their_ranges():
    drawn = views(replace(PLAIN, photometric_probability=0.5, channel_order_probability=0.5))
    factors = {name: [f for view in drawn for n, f in view.colours if n == name] for name in ("contrast", "hue")}
    assert 60 < len(factors["hue"]) < 140
    assert max(map(abs, factors["hue"])) <= 0.05
    assert min(factors["contrast"]) >= 0.5
    assert max(factors["contrast"]) <= 1.5
    assert {view.colours[0][0] for view in drawn if view.colours} >= {"brightness", "contrast", "saturation", "hue"}
    assert len({view.channel_order for view in drawn}) == 6

    view = SSDView((0, 0, 120, 90), colours=(("contrast", 1.3), ("hue", 0.04)), channel_order=(2, 0, 1))
    shown = np.asarray(show_ssd_view(view, picture(), SIZE_HW, (0, 0, 0)))
    tensor = torch.from_numpy(np.asarray(picture()).copy()).permute(2, 0, 1)
    expected = F.adjust_hue(F.adjust_contrast(tensor, 1.3), 0.04)[[2, 0, 1]].permute(1, 2, 0).numpy()
    assert np.abs(shown.astype(int) - expected.astype(int)).mean() < 3  # Pillow's hue has 256 steps


def test_without_objects_there_is_no_crop():
    config = replace(PLAIN, crop_overlaps=(0.0, 0.5))
    for nothing in (np.zeros((0, 4), np.float32), np.array([[200, 200, 220, 220]], np.float32)):
        view = draw_ssd_view(config, nothing, SIZE_HW, np.random.default_rng(0))
        assert view.region_xyxy == (0, 0, 120, 90)


def samples() -> list[Sample]:
    pixels = np.asarray(picture())
    difficult = np.array([False, False, True])
    annotations = Annotations(np.vstack([BOXES, [[40, 40, 80, 80]]]), np.array([1, 0, 2]), difficult)
    return [Sample(str(index), np.roll(pixels, index, 0), SIZE_HW, annotations) for index in range(6)]


def test_batches_are_a_function_of_seed_and_step_whatever_the_threads():
    batches = []
    for workers in (0, 3):
        torch.manual_seed(workers)
        loader = make_loader(samples(), PREPROCESSING, 4, SSDAugmentConfig(), seed=5, workers=workers)
        batches.append(list(loader.batches(0, 4)))
    for first, second in zip(*batches):
        assert first.images.shape == (4, 3, 60, 80)
        assert torch.equal(first.images, second.images)
        assert first.view_ids == second.view_ids
        for a, b in zip(first.targets, second.targets):
            assert torch.equal(a.boxes_xyxy, b.boxes_xyxy)
    seen = [name for batch in batches[0] for name in batch.view_ids]
    assert len(set(seen)) == len(seen)  # no view is met twice
    assert any(len(target.ignored_xyxy) for batch in batches[0] for target in batch.targets)


def test_boxes_follow_their_objects():
    """A bright square on black is where its box says, in every view that keeps all of it."""
    pixels = np.zeros((*SIZE_HW, 3), np.uint8)
    pixels[20:70, 10:60] = 255
    sample = Sample("a", pixels, SIZE_HW, Annotations(BOXES[:1], np.array([0])))
    config = SSDAugmentConfig(photometric_probability=0)
    preprocessing = replace(PREPROCESSING, mean=(0.0,) * 3)
    for batch in make_loader([sample], preprocessing, 1, config, workers=0).batches(0, 30):
        (target,) = batch.targets
        rows, columns = torch.where(batch.images[0, 0] > 127)
        found = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        torch.testing.assert_close(target.boxes_xyxy[0], found, atol=1.0, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip_probability": 1.5},
        {"largest_zoom_out": 0.5},
        {"crop_overlaps": (1.0,)},
        {"hue": 0.6},
        {"contrast": -0.1},
        {"smallest_crop": 0.0},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        SSDAugmentConfig(**wrong)


def test_images_of_many_sizes_are_refused():
    with pytest.raises(InputError, match="fixed_size_hw"):
        make_loader(samples(), Preprocessing(), 2, SSDAugmentConfig())
