"""Views: drawn from numbers alone, and boxes that stay on their pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tinydet.data.transforms import NO_AUGMENTATION, AugmentConfig, View, draw_view, render_view, resized_pixels
from tinydet.preprocessing import Preprocessing
from tinydet.records import Annotations, Sample


def test_views_are_functions_of_their_numbers() -> None:
    config = AugmentConfig(0.5, (10, 20, 30))
    views = [draw_view(config, 1, 2, index) for index in range(200)]
    assert views == [draw_view(config, 1, 2, index) for index in range(200)]
    assert views != [draw_view(config, 1, 3, index) for index in range(200)]
    assert views != [draw_view(config, 2, 2, index) for index in range(200)]
    assert {view.shorter_side for view in views} == {10, 20, 30}
    assert 70 < sum(view.flipped for view in views) < 130


def test_no_augmentation_is_none() -> None:
    assert {draw_view(NO_AUGMENTATION, 0, epoch, index) for epoch in range(9) for index in range(9)} == {View()}


def test_flipping_always_flips() -> None:
    assert all(draw_view(AugmentConfig(1.0), 0, 0, index).flipped for index in range(50))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("channels", ["rgb", "gray"])
def test_boxes_stay_on_their_pixels(flipped: bool, channels: str) -> None:
    """A white rectangle on black, doubled in size: the box found in the pixels is the target's."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[4:9, 3:13] = 255
    sample = Sample("a", pixels, (20, 30), Annotations([[3, 4, 13, 9]], [2]))
    one = {"mean": (0.0,), "std": (1.0,)} if channels == "gray" else {}
    preprocessing = Preprocessing(shorter_side=20, longer_side=200, channels=channels, **one)  # type: ignore[arg-type]
    view = View(40, flipped)
    resized, original_hw = resized_pixels(sample, preprocessing, view)
    shown, target = render_view(resized, original_hw, sample.annotations, view, preprocessing)
    assert shown.shape == (40, 60, 1 if channels == "gray" else 3)
    rows, columns = np.nonzero(shown[:, :, 0] > 127)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert target.boxes_xyxy.tolist() == [found]
    assert target.labels.tolist() == [2]


def test_what_is_not_trained_on_is_ignored() -> None:
    annotations = Annotations(
        [[0, 0, 5, 5], [1, 1, 6, 6], [2, 2, 7, 7], [3, 3, 3.2, 8], [-4, 2, 40, 9]],
        [0, 1, 2, 3, 4],
        difficult=[False, True, False, False, False],
        crowd=[False, False, True, False, False],
    )
    _, target = render_view(np.zeros((10, 10, 3), np.uint8), (10, 10), annotations, View(), Preprocessing())
    assert target.labels.tolist() == [0, 4]
    assert target.boxes_xyxy.tolist() == [[0, 0, 5, 5], [0, 2, 10, 9]]
    assert target.ignored_xyxy[:, 0].tolist() == [1, 2, 3]
    assert target.boxes_xyxy.dtype == torch.float32


def test_an_image_without_objects_has_empty_targets() -> None:
    _, target = render_view(
        np.zeros((10, 10, 3), np.uint8), (10, 10), Annotations.empty(), View(flipped=True), Preprocessing()
    )
    assert target.boxes_xyxy.shape == (0, 4)
    assert target.labels.shape == (0,)
    assert target.ignored_xyxy.shape == (0, 4)


def test_the_same_name_means_the_same_pixels() -> None:
    views = [View(side, flipped) for side in (None, 10, 20) for flipped in (False, True)]
    assert len({view.name("a") for view in views}) == 6
    assert View(10, True).name("a") != View(10, True).name("b")


@pytest.mark.parametrize("wrong", [{"flip_probability": 1.5}, {"shorter_sides": (0,)}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"flip probability|shorter sides"):
        AugmentConfig(**wrong)  # type: ignore[arg-type]
