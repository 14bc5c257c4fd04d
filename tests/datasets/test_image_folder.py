import numpy as np
import pytest
from PIL import Image

from tinydet.datasets.image_folder import open_image_folder
from tinydet.errors import InputError


def make_images(folder, names, size=(20, 12)):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)


def test_a_folder_for_each_class_is_split_by_the_seed(tmp_path):
    make_images(tmp_path, [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(10)])
    make_images(tmp_path, [".hidden/1.png", "empty/readme/deep.png"])
    (tmp_path / "notes.txt").write_text("not a class")
    dataset = open_image_folder(tmp_path, seed=3)
    assert dataset.classes == ("cat", "dog", "empty")
    train, val = ({s.image_id for s in dataset.split(name)} for name in ("train", "val"))
    assert (len(train), len(val), train & val) == (17, 4, set())
    sample = next(s for s in dataset.split("train") if s.image_id.startswith("dog/"))
    assert sample.annotations.labels.tolist() == [1]
    np.testing.assert_array_equal(sample.annotations.boxes_xyxy, [[0, 0, 20, 12]])
    assert {s.image_id for s in open_image_folder(tmp_path, seed=3).split("val")} == val
    assert {s.image_id for s in open_image_folder(tmp_path, seed=4).split("val")} != val


def test_own_splits_are_kept(tmp_path):
    make_images(tmp_path, ["train/a/1.png", "train/b/2.png", "train/b/3.png", "val/a/4.png", "val/b/5.png"])
    dataset = open_image_folder(tmp_path)
    assert [s.image_id for s in dataset.split("train")] == ["train/a/1.png", "train/b/2.png", "train/b/3.png"]
    assert [s.image_id for s in dataset.split("val")] == ["val/a/4.png", "val/b/5.png"]
    make_images(tmp_path, ["val/c/6.png"])
    with pytest.raises(InputError, match="the first c"):
        open_image_folder(tmp_path)


def test_unreadable_images_are_faults(tmp_path):
    make_images(tmp_path, [f"{name}/{i}.png" for name in ("a", "b") for i in range(5)])
    (tmp_path / "a" / "text.jpg").write_text("no image")
    (tmp_path / "b" / "nothing.jpg").write_bytes(b"")
    dataset = open_image_folder(tmp_path)
    assert sorted(fault.path.name for fault in dataset.faults) == ["nothing.jpg", "text.jpg"]
    assert sum(map(len, dataset.splits.values())) == 10


def test_too_few_classes(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        open_image_folder(tmp_path / "absent")
    with pytest.raises(InputError, match="found none"):
        open_image_folder(tmp_path)
    make_images(tmp_path, ["only/1.png", "only/2.png"])
    with pytest.raises(InputError, match="found only 'only'"):
        open_image_folder(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1.png").write_text("no image")
    with pytest.raises(InputError, match=r"readable images of 1 classes.*1\.png"):
        open_image_folder(tmp_path)
