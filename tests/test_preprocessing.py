from __future__ import annotations

import pytest
from PIL import Image

from tinydet.preprocessing import Preprocessing


@pytest.mark.parametrize(
    ("size_hw", "expected_hw"),
    [
        ((480, 640), (600, 800)),
        ((640, 480), (800, 600)),
        ((333, 1000), (333, 1000)),  # the longer side decides
        ((1, 1), (600, 600)),
        ((1, 3000), (16, 1000)),  # VGG16 needs 16 pixels
        ((3000, 1), (1000, 16)),
    ],
)
def test_sizes(size_hw, expected_hw):
    preprocessing = Preprocessing(600, 1000)
    assert preprocessing.resized_hw(size_hw) == expected_hw
    assert preprocessing(Image.new("RGB", size_hw[::-1])).shape == (*expected_hw, 3)


def test_a_smaller_side_than_sixteen_pixels_may_be_asked_for():
    assert Preprocessing(8, 16).resized_hw((100, 100)) == (8, 8)
    assert Preprocessing(8, 16).resized_hw((1, 100)) == (8, 16)
