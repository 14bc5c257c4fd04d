"""The built-in set: real handwritten digits on real photographs. It needs no file and no network.

The 1,797 digits of scikit-learn's `load_digits` (8 x 8, from the UCI set of Alpaydin and Kaynak, 1998) are enlarged,
turned a little, coloured and blended into random crops of scikit-learn's two sample photographs. The same seed gives
the same bytes; the digits of the test images are other originals than those of the training images.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tinydet.errors import InputError, MissingExtraError
from tinydet.records import Annotations, Dataset, Sample

DIGIT_CLASSES = tuple("0123456789")
_SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}  # of the originals
_LEAST_CONTRAST = 100.0  # grey levels between a digit and what it stands on
_MOST_OVERLAP = 0.1  # of the smaller of two boxes
_INK = 0.25  # opacity from which a pixel belongs to the digit's box

Array = NDArray[Any]
_Corners = tuple[int, int, int, int]


@dataclass(frozen=True)
class DigitsConfig:
    """What the set is made of.

    Attributes:
        train, val, test: images of each split.
        height, width: of every image, pixels.
        digits: least and most digits an image.
        digit_height: least and most height of a digit, pixels.
    """

    train: int = 1000
    val: int = 80
    test: int = 160
    seed: int = 0
    height: int = 160
    width: int = 208
    digits: tuple[int, int] = (2, 6)
    digit_height: tuple[int, int] = (28, 88)

    def __post_init__(self) -> None:
        if min(self.train, self.val, self.test, self.seed) < 0:
            raise InputError(f"digits: a count or seed below 0: {self}")
        if min(self.height, self.width) < 64 or self.height > 427 or self.width > 640:
            raise InputError(f"digits: images of {self.width} x {self.height}; expected 64 x 64 to 640 x 427 pixels")
        if not (8 <= self.digit_height[0] <= self.digit_height[1] and 1 <= self.digits[0] <= self.digits[1]):
            raise InputError(
                f"digits: heights {self.digit_height} from 8 pixels and counts {self.digits} from 1 must rise"
            )


def from_words(words: str, classes: Sequence[str] | None = None) -> Dataset:
    """The set that `digits` or `digits:seed=3,train=100` names; also `val`, `test`, `height` and `width`.

    Raises:
        InputError: an unknown setting, or classes that are no digits.
    """
    config = DigitsConfig()
    numbers = [field.name for field in fields(DigitsConfig) if isinstance(field.default, int)]
    for setting in filter(None, words.partition(":")[2].split(",")):
        name, _, value = setting.partition("=")
        if name.strip() not in numbers or not value.strip().isdigit():
            raise InputError(
                f"{words}: {setting!r} is not one of {', '.join(numbers)} with a whole number: digits:seed=3"
            )
        changes: dict[str, Any] = {name.strip(): int(value)}
        config = replace(config, **changes)
    dataset = make_dataset(config)
    if classes is not None and tuple(classes) != DIGIT_CLASSES:
        raise InputError(f"{words}: the classes are {', '.join(DIGIT_CLASSES)}; other ones cannot be asked for")
    return replace(dataset, name=words)


def make_digits(
    train: int = 1000, val: int = 80, test: int = 160, size_hw: tuple[int, int] = (160, 208), seed: int = 0
) -> Dataset:
    """The set with so many images a split, of this height and width."""
    return make_dataset(DigitsConfig(train=train, val=val, test=test, seed=seed, height=size_hw[0], width=size_hw[1]))


def make_dataset(config: DigitsConfig) -> Dataset:
    """The set; the first images of a split stay the same when more are asked for.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    originals, labels = _load_digits()
    photographs = _load_photographs()
    splits = {}
    for number, (split, chosen) in enumerate(_partition(labels, config.seed).items()):
        splits[split] = tuple(
            _make_sample(
                f"{split}/{index:05d}",
                np.random.default_rng([config.seed, number, index]),
                originals[chosen],
                labels[chosen],
                photographs,
                config,
            )
            for index in range(getattr(config, split))
        )
    return Dataset("digits", DIGIT_CLASSES, splits)


def _sklearn_datasets() -> Any:
    try:
        return importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise MissingExtraError("the built-in set of digits", "train") from error


@cache
def _load_digits() -> tuple[Array, Array]:
    """`[1797, 8, 8]` opacities 0..1 and `[1797]` labels."""
    loaded = _sklearn_datasets().load_digits()
    return loaded.images.astype(np.float32) / 16, loaded.target.astype(np.int64)


@cache
def _load_photographs() -> tuple[Image.Image, ...]:
    return tuple(Image.fromarray(pixels) for pixels in _sklearn_datasets().load_sample_images().images)


def _partition(labels: Array, seed: int) -> dict[str, Array]:
    """Indices of the originals of each split, with the same share of every digit."""
    rng = np.random.default_rng([seed, 1797])
    parts: dict[str, list[Array]] = {split: [] for split in _SHARES}
    for digit in range(10):
        order = rng.permutation(np.flatnonzero(labels == digit))
        cuts = np.round(np.cumsum(list(_SHARES.values())) * len(order)).astype(int)
        for split, part in zip(_SHARES, np.split(order, cuts[:-1])):
            parts[split].append(part)
    return {split: np.sort(np.concatenate(chosen)) for split, chosen in parts.items()}


def _make_sample(
    image_id: str,
    rng: np.random.Generator,
    originals: Array,
    labels: Array,
    photographs: Sequence[Image.Image],
    config: DigitsConfig,
) -> Sample:
    size_hw = config.height, config.width
    canvas = _background(rng, photographs, size_hw)  # [H, W, 3] float32
    boxes: list[_Corners] = []
    found: list[int] = []
    for _ in range(int(rng.integers(config.digits[0], config.digits[1] + 1))):
        index = int(rng.integers(len(labels)))
        opacity = _enlarge(originals[index], _digit_height(rng, config), rng)
        place = _free_place(rng, opacity.shape, size_hw, boxes)
        if place is None:
            continue
        top, left = place
        height, width = opacity.shape
        _blend(canvas[top : top + height, left : left + width], opacity, rng)
        boxes.append((left, top, left + width, top + height))
        found.append(int(labels[index]))
    canvas += rng.normal(0, rng.uniform(0, 6), canvas.shape)
    pixels = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Sample(image_id, pixels, size_hw, Annotations(np.array(boxes, np.float32), np.array(found, np.int64)))


def _background(rng: np.random.Generator, photographs: Sequence[Image.Image], size_hw: tuple[int, int]) -> Array:
    """A crop of a photograph at a random scale, perhaps mirrored, with its contrast and brightness varied."""
    photograph = photographs[int(rng.integers(len(photographs)))]
    height, width = size_hw
    largest = min(photograph.height / height, photograph.width / width)
    scale = rng.uniform(min(1.0, largest), largest)  # photograph pixels per pixel
    crop_h, crop_w = height * scale, width * scale
    top, left = rng.uniform(0, photograph.height - crop_h), rng.uniform(0, photograph.width - crop_w)
    box = (left, top, left + crop_w, top + crop_h)
    crop = np.asarray(photograph.resize((width, height), Image.Resampling.BILINEAR, box=box), np.float32)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return (crop - 128) * np.float32(rng.uniform(0.5, 1.0)) + np.float32(128 + rng.uniform(-30, 30))


def _digit_height(rng: np.random.Generator, config: DigitsConfig) -> int:
    """Small ones are as frequent as large ones: even on a scale of ratios."""
    low, high = config.digit_height[0], min(config.digit_height[1], round(config.height * 0.6))
    return round(float(np.exp(rng.uniform(np.log(low), np.log(max(low, high))))))


def _enlarge(original: Array, height: int, rng: np.random.Generator) -> Array:
    """`[height, W]` opacity of a digit, cut to its ink; `original` is `[8, 8]`."""
    working = 2 * height  # cut to the ink at twice the size, then brought to the height asked for
    width = round(working * rng.uniform(0.85, 1.2))
    padded = np.pad(original, 1) * 255
    image = Image.fromarray(padded.astype(np.uint8)).resize((width, working), Image.Resampling.BICUBIC)
    image = image.rotate(rng.uniform(-8, 8), Image.Resampling.BILINEAR)
    ink = _sharpen(np.asarray(image, np.float32) / 255) >= _INK
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    image = image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    width = max(4, round(image.width * height / image.height))
    return _sharpen(np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255)


def _sharpen(values: Array) -> Array:
    """An edge of a few pixels where enlarging has left a slope."""
    steps = np.clip((values - 0.36) / 0.46, 0, 1)
    return steps * steps * (3 - 2 * steps)


def _free_place(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    size_hw: tuple[int, int],
    boxes: Sequence[_Corners],
) -> tuple[int, int] | None:
    """Top and left of a place that hides little of the digits that stand already; None if none is found."""
    height, width = shape
    if height > size_hw[0] or width > size_hw[1]:
        return None
    for _ in range(40):
        top, left = int(rng.integers(size_hw[0] - height + 1)), int(rng.integers(size_hw[1] - width + 1))
        if all(_overlap((left, top, left + width, top + height), box) <= _MOST_OVERLAP for box in boxes):
            return top, left
    return None


def _overlap(first: _Corners, second: _Corners) -> float:
    """The shared area as a part of the smaller box."""
    w = min(first[2], second[2]) - max(first[0], second[0])
    h = min(first[3], second[3]) - max(first[1], second[1])
    if w <= 0 or h <= 0:
        return 0.0
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return w * h / smaller


def _blend(under: Array, opacity: Array, rng: np.random.Generator) -> None:
    """Paint a digit into `under`, `[H, W, 3]`, lighter or darker than what it covers."""
    covered = float((under.mean(axis=2) * opacity).sum() / opacity.sum())
    room = {"darker": covered, "lighter": 255 - covered}
    ways = [way for way, levels in room.items() if levels >= _LEAST_CONTRAST + 15] or [
        max(room, key=lambda way: room[way])
    ]
    way = ways[int(rng.integers(len(ways)))]
    contrast = rng.uniform(_LEAST_CONTRAST, max(_LEAST_CONTRAST + 1, min(170.0, room[way])))
    grey = covered - contrast if way == "darker" else covered + contrast
    colour = grey + rng.uniform(-45, 45, 3)
    colour += grey - colour.mean()  # a tint that keeps the contrast
    strength = (opacity * rng.uniform(0.8, 1.0))[:, :, None]
    under += strength * (np.clip(colour, 0, 255) - under)
