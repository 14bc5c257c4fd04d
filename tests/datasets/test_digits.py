from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tinydet.datasets import DigitsConfig, digits, make_digits, open_dataset
from tinydet.datasets.digits import _load_digits, _partition, make_dataset
from tinydet.errors import InputError


def digest(dataset):
    found = hashlib.sha256()
    for samples in dataset.splits.values():
        for sample in samples:
            found.update(sample.image.tobytes() + sample.annotations.boxes_xyxy.tobytes())
            found.update(sample.annotations.labels.tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def small():
    return make_digits(train=60, val=10, test=20)


def test_none_asked_for():
    assert {name: len(samples) for name, samples in make_digits(0, 0, 0).splits.items()} == {
        "train": 0, "val": 0, "test": 0,
    }  # fmt: skip


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(small):
    assert digest(make_digits(train=60, val=10, test=20)) == digest(small)
    assert digest(make_digits(train=60, val=10, test=20, seed=1)) != digest(small)


def test_more_images_keep_the_first(small):
    more = make_digits(train=61, val=0, test=0)
    for first, second in zip(small.split("train"), more.split("train")):
        np.testing.assert_array_equal(first.image, second.image)


def test_the_splits_share_no_original():
    _, labels = _load_digits()
    parts = _partition(labels, seed=0)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(1797))
    for part in parts.values():
        assert np.bincount(labels[part], minlength=10).min() >= 16


def test_boxes_lie_in_the_image_hold_ink_and_hardly_overlap(small):
    heights = []
    for sample in small.split("train"):
        boxes = sample.annotations.boxes_xyxy
        assert sample.image.shape == (160, 208, 3)
        assert 1 <= len(boxes) <= 6
        assert (boxes >= 0).all()
        assert (boxes <= [208, 160, 208, 160]).all()
        heights += (boxes[:, 3] - boxes[:, 1]).tolist()
        for index, (x1, y1, x2, y2) in enumerate(boxes):
            for other in boxes[index + 1 :]:
                shared = max(0, min(x2, other[2]) - max(x1, other[0])) * max(0, min(y2, other[3]) - max(y1, other[1]))
                assert shared <= 0.1 * (x2 - x1) * (y2 - y1) + 1e-3 or shared <= 0.1 * np.prod(other[2:] - other[:2])
    assert min(heights) >= 28
    assert max(heights) <= 88
    assert {label for sample in small.split("train") for label in sample.annotations.labels.tolist()} == set(range(10))


def test_a_digit_is_recognised_in_its_box():
    """What is pasted is what it is labelled as: its opacity, brought back to 8 x 8, is nearest to its own class."""
    from PIL import Image

    originals, labels = _load_digits()
    trimmed = []
    for original in originals:
        rows, columns = np.flatnonzero(original.any(axis=1)), np.flatnonzero(original.any(axis=0))
        cut = original[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        trimmed.append(np.asarray(Image.fromarray(cut).resize((8, 8), Image.Resampling.BILINEAR)).ravel())
    known = np.array(trimmed)
    right = 0
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, 1797, 100)
    for index in chosen:
        opacity = digits._enlarge(originals[index], 40, rng)
        assert opacity.shape[0] == 40
        back = np.asarray(Image.fromarray(opacity).resize((8, 8), Image.Resampling.BOX)).ravel()
        distances = ((known - back) ** 2).sum(axis=1)
        right += labels[np.argsort(distances)[0]] == labels[index]
    assert right >= 90


def test_words_set_numbers():
    dataset = open_dataset("digits:train=3,val=1,test=2,seed=5,height=96,width=128")
    assert {name: len(samples) for name, samples in dataset.splits.items()} == {"train": 3, "val": 1, "test": 2}
    assert dataset.split("train")[0].size_hw == (96, 128)
    assert dataset.name == "digits:train=3,val=1,test=2,seed=5,height=96,width=128"
    config = DigitsConfig(train=3, val=1, test=2, seed=5, height=96, width=128)
    assert digest(make_dataset(config)) == digest(dataset)


@pytest.mark.parametrize(
    "words", ["digits:colour=3", "digits:seed", "digits:seed=x", "digits:height=1000", "digits:seed=-1"]
)
def test_words_that_set_nothing(words):
    with pytest.raises(InputError, match="digits"):
        open_dataset(words)


def test_other_classes_cannot_be_asked_for():
    with pytest.raises(InputError, match="the classes are 0, 1"):
        open_dataset("digits:train=1,val=0,test=0", ["cat"])


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    digits._load_digits.cache_clear()
    monkeypatch.setattr(digits.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r'pip install "tinydet\[train\]"'):
        make_digits(1, 0, 0)
