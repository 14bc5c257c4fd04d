from __future__ import annotations

import pytest

from tinydet.datasets.faults import Faulty
from tinydet.datasets.images import ImageFolder, pixel_fault, read_header


def test_an_empty_file(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"")
    with pytest.raises(Faulty) as faulty:
        read_header(path)
    assert faulty.value.fault.kind == "empty-file"
    assert pixel_fault(path).kind == "empty-file"


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tiff"])
def test_every_damage_at_the_end_is_found(tmp_path, save_image, suffix):
    path = save_image(tmp_path / f"a.{suffix}", (64, 96))
    assert pixel_fault(path) is None
    assert read_header(path).size_hw == (64, 96)
    content = path.read_bytes()
    for kept in (0.3, 0.6, 0.95):
        path.write_bytes(content[: int(len(content) * kept)])
        fault = pixel_fault(path)
        assert fault is not None
        assert fault.kind in ("truncated-image", "unreadable-image")


def test_text_is_no_image_and_nothing_is_missing(tmp_path):
    path = tmp_path / "a.jpg"
    assert pixel_fault(path).kind == "missing-image"
    path.write_text("<html>not found</html>")
    assert pixel_fault(path).kind == "unreadable-image"
    with pytest.raises(Faulty) as faulty:
        read_header(path)
    assert faulty.value.fault.kind == "unreadable-image"


@pytest.mark.parametrize(("orientation", "size_hw"), [(1, (40, 60)), (3, (40, 60)), (6, (60, 40)), (8, (60, 40))])
def test_the_size_is_that_of_the_upright_image(tmp_path, save_image, orientation, size_hw):
    assert read_header(save_image(tmp_path / "a.jpg", (40, 60), orientation=orientation)).size_hw == size_hw


def test_stems_may_hold_dots_and_folders(tmp_path, save_image):
    path = save_image(tmp_path / "event" / "a.b.JPG".lower())
    folder = ImageFolder(tmp_path)
    assert folder.find("event/a.b") == path
    assert folder.find("event/a") is None
    assert folder.find("nowhere/a") is None
