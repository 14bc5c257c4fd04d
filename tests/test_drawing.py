from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tinydet.drawing import class_colour, draw_annotations, draw_detections, text_colour
from tinydet.records import Annotations, Detections

CLASSES = ("cat", "a dog with a long name", "浣熊")


def test_nothing_found_leaves_a_copy() -> None:
    image = Image.new("RGB", (50, 40), (1, 2, 3))
    drawn = draw_detections(image, Detections.empty(), CLASSES)
    assert drawn is not image
    assert np.array_equal(np.asarray(drawn), np.asarray(image))


def test_the_original_stays_as_it_was_and_the_box_is_where_it_should_be() -> None:
    image = Image.new("RGB", (200, 160))
    drawn = np.asarray(draw_detections(image, Detections([[50, 60, 150, 140]], [0.9], [0]), CLASSES))
    assert not np.asarray(image).any()
    assert tuple(drawn[100, 50]) == tuple(drawn[139, 100]) == tuple(drawn[100, 149]) == class_colour(0)
    assert not drawn[100, 60:140].any()  # only the outline
    assert not drawn[145:, 155:].any()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (64, 48), (3000, 200)])
def test_any_mode_and_size_and_boxes_beyond_the_image(mode: str, size: tuple[int, int]) -> None:
    boxes = np.array([[-20, -20, 5000, 5000], [0, 0, 0, 0], [10, 10, 30, 30]], np.float32)
    image = Image.new(mode, size)
    drawn = draw_detections(image, Detections(boxes, [0.9, 0.8, 0.7], [0, 1, 2]), CLASSES)
    assert drawn.size == size
    assert drawn.mode == "RGB"
    assert draw_annotations(image, Annotations(boxes, [0, 1, 2], [True, False, False]), CLASSES).size == size


def test_labels_are_drawn_inside_the_image_and_apart_where_there_is_room() -> None:
    image = Image.new("RGB", (300, 200))
    twice = Detections([[100, 50, 200, 150], [100, 50, 200, 150]], [0.9, 0.8], [0, 1])
    one = np.asarray(draw_detections(image, twice[:1], CLASSES))
    both = np.asarray(draw_detections(image, twice, CLASSES))
    plates = [(both == class_colour(label)).all(axis=2).sum() for label in (0, 1)]
    assert min(plates) > 300  # each label's plate is seen
    assert (one != both).any()


def test_a_label_without_a_name() -> None:
    with pytest.raises(ValueError, match="label 5"):
        draw_detections(Image.new("RGB", (9, 9)), Detections([[0, 0, 5, 5]], [0.5], [5]), CLASSES)


def test_text_contrasts_with_every_class_colour() -> None:
    def luminance(colour: tuple[int, int, int]) -> float:
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for label in range(100):
        low, high = sorted((luminance(class_colour(label)), luminance(text_colour(class_colour(label)))))
        assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG AA
    assert len({class_colour(label) for label in range(100)}) > 90
