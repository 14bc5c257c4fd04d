from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tinydet.errors import InputError
from tinydet.records import open_image
from tinydet.runtime.decoding import decode

GRAY = np.linspace(0, 255, 48).reshape(6, 8).astype(np.uint8)


def _image(mode: str) -> Image.Image:
    match mode:
        case "I;16":
            return Image.fromarray(GRAY.astype(np.uint16) * 257)
        case "I":
            return Image.fromarray(GRAY.astype(np.int32) * 257)
        case _:
            return Image.fromarray(GRAY).convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix", "tolerance"),
    [
        ("L", "png", 0),
        ("RGB", "png", 0),
        ("RGBA", "png", 0),
        ("LA", "png", 0),
        ("P", "png", 0),
        ("P", "gif", 0),
        ("I;16", "png", 0),
        ("I;16", "tif", 0),
        ("I", "tif", 0),
        ("CMYK", "tif", 1),
        ("L", "webp", 25),
        ("CMYK", "jpg", 25),
    ],
)
def test_an_image_of_any_mode_has_the_same_pixels_in_training_and_in_the_runtime(tmp_path, mode, suffix, tolerance):
    path = tmp_path / f"a.{suffix}"
    _image(mode).save(path)
    pixels = np.asarray(open_image(path)).astype(int)
    assert pixels.shape == (6, 8, 3)
    assert np.abs(pixels - GRAY[:, :, None]).max() <= tolerance
    np.testing.assert_array_equal(decode(path), pixels)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(decode(opened), pixels)


def test_floating_point_pixels_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(GRAY.astype(np.float32) / 255).save(path)
    for read in (open_image, decode):
        with pytest.raises(InputError, match=r"a\.tif.*floating-point"):
            read(path)
    with Image.open(path) as opened, pytest.raises(InputError, match="floating-point"):
        decode(opened)


def test_an_image_on_its_side_is_turned_upright(tmp_path):
    path, exif = tmp_path / "a.png", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(GRAY).save(path, exif=exif)
    upright = np.asarray(open_image(path))
    np.testing.assert_array_equal(upright[:, :, 0], np.rot90(GRAY, -1))
    np.testing.assert_array_equal(decode(path), upright)
