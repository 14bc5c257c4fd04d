from __future__ import annotations

import pytest

from tinydet.datasets import check_dataset, make_digits, open_dataset, usable_samples
from tinydet.errors import InputError


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def test_a_clean_set_and_one_without_files(voc_root):
    assert check_dataset(open_dataset(voc_root)) == ()
    assert check_dataset(make_digits(train=2, val=0, test=0)) == ()


def test_opening_does_not_decode_and_checking_does(voc_root):
    truncate(voc_root / "JPEGImages" / "b.jpg")
    dataset = open_dataset(voc_root)
    assert dataset.faults == ()
    (fault,) = check_dataset(dataset)  # once, though two splits hold the image
    assert (fault.kind, fault.path.name) == ("truncated-image", "b.jpg")


def test_training_leaves_out_what_is_faulty_and_says_so_once(voc_root, capsys):
    truncate(voc_root / "JPEGImages" / "b.jpg")
    (voc_root / "Annotations" / "c.2.xml").write_text("")
    dataset = open_dataset(voc_root)
    assert [sample.image_id for sample in usable_samples(dataset, "trainval")] == ["a", "d"]
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert "2 faults were found (1 empty-file, 1 truncated-image)" in warning
    assert "2 images of split 'trainval' are used" in warning


def test_a_clean_split_makes_no_noise(voc_root, capsys):
    assert len(usable_samples(open_dataset(voc_root), "train")) == 2
    assert capsys.readouterr().err == ""


def test_nothing_left(voc_root):
    for name in ("a", "b"):
        truncate(voc_root / "JPEGImages" / f"{name}.jpg")
    dataset = open_dataset(voc_root)
    with pytest.raises(InputError, match=r"'train' has no usable image; faults found: 2 truncated-image; the first: "):
        usable_samples(dataset, "train")
    with pytest.raises(InputError, match="no split 'test'"):
        usable_samples(dataset, "test")


def test_no_object_left(voc_root):
    dataset = open_dataset(voc_root, ["horse"])
    with pytest.raises(
        InputError, match="none of the 2 images of split 'train' has a labelled object; faults found: 5 unknown-class"
    ):
        usable_samples(dataset, "train", decode=False)
