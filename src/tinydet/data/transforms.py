"""From a sample to a view of it: resized, perhaps flipped, its boxes with it.

What is done to a sample is drawn first (`draw_view`), from (seed, epoch, index) alone, and done afterwards
(`render_view`), so that a resumed run sees the same pixels without any stored random state. A new augmentation is a
field of `AugmentConfig`, a field of `View`, and a step in `render_view`; one that never gives the same pixels twice
must also make `View.name` differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tinydet import boxes
from tinydet.data.batch import Target
from tinydet.data.ssd_augment import SSDAugmentConfig, boxes_in_ssd_view, draw_ssd_view, show_ssd_view
from tinydet.preprocessing import Preprocessing
from tinydet.records import Annotations, Sample

LEAST_SIDE = 0.5
"""Objects thinner than this many pixels of the resized image cannot be learnt; they are ignored, not background."""


@dataclass(frozen=True)
class AugmentConfig:
    """How training images are varied.

    Attributes:
        flip_probability: of mirroring left to right.
        shorter_sides: scale jitter; each view's shorter side is one of these. Empty: the preprocessing's. Without
            effect where the preprocessing has a fixed size.
    """

    flip_probability: float = 0.5
    shorter_sides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip probability {self.flip_probability} is not in 0..1")
        if any(side < 1 for side in self.shorter_sides):
            raise ValueError(f"shorter sides {self.shorter_sides} must be positive")


NO_AUGMENTATION = AugmentConfig(flip_probability=0.0)

Augment = AugmentConfig | SSDAugmentConfig


@dataclass(frozen=True)
class SSDDraw:
    """What SSD's augmentation of one sample is drawn from, once its objects are known."""

    config: SSDAugmentConfig
    entropy: tuple[int, ...]


@dataclass(frozen=True)
class View:
    """What is done to one sample, once."""

    shorter_side: int | None = None
    flipped: bool = False
    ssd: SSDDraw | None = None

    def name(self, image_id: str) -> str:
        """The same text for the same pixels."""
        if self.ssd is not None:
            return f"{image_id}|ssd|{'|'.join(map(str, self.ssd.entropy))}"
        return f"{image_id}|{self.shorter_side or 'as-configured'}|{'flipped' if self.flipped else 'upright'}"


def draw_view(config: Augment, seed: int, epoch: int, index: int) -> View:
    """The view of sample `index` in `epoch`: a pure function of its arguments."""
    entropy = (seed, epoch, 1, index)  # the 1 sets it apart from the epoch's permutation
    if isinstance(config, SSDAugmentConfig):
        return View(ssd=SSDDraw(config, entropy))
    random = np.random.default_rng(entropy)
    side = int(random.choice(config.shorter_sides)) if config.shorter_sides else None
    return View(side, bool(random.random() < config.flip_probability))


def resized_pixels(
    sample: Sample, preprocessing: Preprocessing, view: View
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The sample's image at the view's size, not flipped yet: `[H, W, C]` uint8, and its height and width before.

    For SSD's augmentation it is the whole image in RGB, since what is cut out of it is resized afterwards.

    Raises:
        InputError: the image cannot be read.
    """
    image = sample.open_image()
    if view.ssd is not None:
        return np.asarray(image), (image.height, image.width)
    return np.ascontiguousarray(preprocessing(image, view.shorter_side)), (image.height, image.width)


def render_view(
    pixels: NDArray[np.uint8],
    original_hw: tuple[int, int],
    annotations: Annotations,
    view: View,
    preprocessing: Preprocessing,
) -> tuple[NDArray[np.uint8], Target]:
    """The view's `[H, W, C]` pixels and what is to be found in them.

    Args:
        pixels: from `resized_pixels`; never changed.
    """
    if view.ssd is not None:
        return _ssd_view(pixels, annotations, view.ssd, preprocessing)
    size_hw = (pixels.shape[0], pixels.shape[1])
    scaled = scaled_boxes(annotations.boxes_xyxy, original_hw, size_hw)
    if view.flipped:
        pixels = pixels[:, ::-1]
        scaled[:, [0, 2]] = size_hw[1] - scaled[:, [2, 0]]
    return pixels, _target(boxes.clip(scaled, size_hw), annotations)


def _ssd_view(
    pixels: NDArray[np.uint8], annotations: Annotations, draw: SSDDraw, preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], Target]:
    """Objects whose centre is cut off are background, as in SSD; ignored ones stay ignored wherever they are seen."""
    size_hw = preprocessing.resized_hw((pixels.shape[0], pixels.shape[1]))
    ignored = annotations.difficult | annotations.crowd
    objects = annotations.boxes_xyxy[~ignored]
    random = np.random.default_rng(draw.entropy)
    view = draw_ssd_view(draw.config, objects, (pixels.shape[0], pixels.shape[1]), random)
    shown = show_ssd_view(view, Image.fromarray(pixels), size_hw, _fill_rgb(preprocessing))
    moved, inside = boxes_in_ssd_view(view, annotations.boxes_xyxy, size_hw)
    seen = (inside | ignored) & (boxes.area(moved) > 0)
    return preprocessing(shown), _target(moved[seen], annotations[seen])


def _fill_rgb(preprocessing: Preprocessing) -> tuple[int, int, int]:
    """What the network's normalization makes nearly 0."""
    mean = preprocessing.mean[::-1] if preprocessing.channels == "bgr" else preprocessing.mean
    red, green, blue = (round(value) for value in (mean * 3 if len(mean) == 1 else mean))
    return (red, green, blue)


def scaled_boxes(boxes_xyxy: NDArray[np.float32], from_hw: tuple[int, int], to_hw: tuple[int, int]) -> boxes.Array:
    """A copy of `[N, 4]` boxes, from the pixels of an image of one size to those of the same image at another."""
    scale_y, scale_x = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    return boxes_xyxy * np.array([scale_x, scale_y, scale_x, scale_y], np.float32)


def _target(boxes_xyxy: boxes.Array, annotations: Annotations) -> Target:
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]  # [N, 2]
    wanted = (sides >= LEAST_SIDE).all(axis=1) & ~annotations.difficult & ~annotations.crowd
    return Target(
        torch.from_numpy(boxes_xyxy[wanted]),
        torch.from_numpy(annotations.labels[wanted]),
        torch.from_numpy(boxes_xyxy[~wanted]),
    )
