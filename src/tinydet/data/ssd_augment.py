"""SSD's augmentation (Liu et al. 2016, sections 2.2 and 3.6): zoom out, crop by overlap, flip, distort the colours.

What is done is drawn first, from a generator that is passed in, and done afterwards: zooming out and cropping come to
one region of the image, which may reach beyond it, and that is resized once. Ranges and the order of choices are those
of torchvision's RandomZoomOut, RandomIoUCrop and RandomPhotometricDistort, whose random numbers come from the process's
one generator and so cannot be drawn in threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import functional as F

from tinydet import boxes

_TRIALS = 40  # crops drawn for one least overlap before another is chosen, torchvision's number
_SIDE_RATIO = 2.0  # of a crop's shares of width and height


@dataclass(frozen=True)
class SSDAugmentConfig:
    """How far SSD's training images are varied.

    Attributes:
        zoom_out_probability, largest_zoom_out: of putting the image on a canvas up to so many times its size.
        crop_overlaps: least IoU of a crop with one of the objects, chosen anew for each image; leaving the image whole
            is one choice more. Empty: no crops.
        smallest_crop: share of the width and of the height.
        flip_probability: of mirroring left to right.
        photometric_probability: of each of brightness, contrast, saturation and hue.
        brightness, contrast, saturation: largest change of the factor, around 1.
        hue: largest shift, as a share of the circle.
        channel_order_probability: of exchanging the colour channels; 0 in the paper's code, 0.5 in torchvision's.
    """

    zoom_out_probability: float = 0.5
    largest_zoom_out: float = 4.0
    crop_overlaps: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    smallest_crop: float = 0.3
    flip_probability: float = 0.5
    photometric_probability: float = 0.5
    brightness: float = 0.125
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.05
    channel_order_probability: float = 0.0

    def __post_init__(self) -> None:
        for name in ("zoom_out", "flip", "photometric", "channel_order"):
            if not 0 <= getattr(self, f"{name}_probability") <= 1:
                raise ValueError(f"{name}_probability {getattr(self, f'{name}_probability')} is not in 0..1")
        if self.largest_zoom_out < 1 or not 0 < self.smallest_crop <= 1:
            raise ValueError(f"zoom out to {self.largest_zoom_out} or crop to {self.smallest_crop}: not a size")
        if any(not 0 <= overlap < 1 for overlap in self.crop_overlaps):
            raise ValueError(f"crop overlaps {self.crop_overlaps} are not in 0..1")
        if not all(0 <= change < 1 for change in (self.brightness, self.contrast, self.saturation)):
            raise ValueError("changes of brightness, contrast and saturation lie in 0..1")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"a hue shift of {self.hue} is not in 0..0.5")


@dataclass(frozen=True)
class SSDView:
    """What is done to one image, once.

    Attributes:
        region_xyxy: what is shown, in whole pixels of the image; beyond the image there is only the fill.
        colours: steps of photometric distortion in their order, by name, with their factors.
        channel_order: of red, green and blue.
    """

    region_xyxy: tuple[int, int, int, int]
    flipped: bool = False
    colours: tuple[tuple[str, float], ...] = ()
    channel_order: tuple[int, int, int] = (0, 1, 2)


def draw_ssd_view(
    config: SSDAugmentConfig, boxes_xyxy: boxes.Array, size_hw: tuple[int, int], random: np.random.Generator
) -> SSDView:
    """A view of an image of `size_hw` with `[N, 4]` objects; nothing is random but the generator."""
    colours, order = _drawn_colours(config, random)
    within = boxes.clip(boxes_xyxy, size_hw)
    visible = within[boxes.area(within) > 0]  # a crop holds the centre of one of these, and so some of the image
    region = _crop(config, visible, _zoomed_out(config, size_hw, random), random)
    return SSDView(region, bool(random.random() < config.flip_probability), colours, order)


def show_ssd_view(
    view: SSDView, image: Image.Image, size_hw: tuple[int, int], fill_rgb: tuple[int, int, int]
) -> Image.Image:
    """The view as an RGB image of `size_hw`."""
    left, top, right, bottom = view.region_xyxy
    scale_x, scale_y = size_hw[1] / (right - left), size_hw[0] / (bottom - top)
    within = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    x, y = round((within[0] - left) * scale_x), round((within[1] - top) * scale_y)
    width = max(1, round((within[2] - left) * scale_x) - x)
    height = max(1, round((within[3] - top) * scale_y) - y)
    shown = image.resize((width, height), Image.Resampling.BILINEAR, box=within)
    if (height, width) != size_hw:
        canvas = Image.new("RGB", (size_hw[1], size_hw[0]), fill_rgb)
        canvas.paste(shown, (x, y))
        shown = canvas
    if view.flipped:
        shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _recoloured(view, shown)


def boxes_in_ssd_view(
    view: SSDView, boxes_xyxy: boxes.Array, size_hw: tuple[int, int]
) -> tuple[boxes.Array, NDArray[np.bool_]]:
    """`[N, 4]` boxes in the pixels of the view, cut to it, and whether each one's centre is in it (`[N]`)."""
    left, top, right, bottom = view.region_xyxy
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    inside = np.all((centres > (left, top)) & (centres < (right, bottom)), axis=1)
    scale = np.array([size_hw[1] / (right - left), size_hw[0] / (bottom - top)] * 2, np.float32)
    moved = (boxes_xyxy - np.array([left, top, left, top], np.float32)) * scale
    if view.flipped:
        moved[:, [0, 2]] = size_hw[1] - moved[:, [2, 0]]
    return boxes.clip(moved.astype(np.float32), size_hw), inside


def _zoomed_out(
    config: SSDAugmentConfig, size_hw: tuple[int, int], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """The canvas that the image is put on, as xyxy in the image's pixels."""
    height, width = size_hw
    if random.random() >= config.zoom_out_probability:
        return (0, 0, width, height)
    ratio = random.uniform(1.0, config.largest_zoom_out)
    canvas_width, canvas_height = int(width * ratio), int(height * ratio)
    left = int((canvas_width - width) * random.random())
    top = int((canvas_height - height) * random.random())
    return (-left, -top, canvas_width - left, canvas_height - top)


def _crop(
    config: SSDAugmentConfig,
    boxes_xyxy: boxes.Array,
    canvas: tuple[int, int, int, int],
    random: np.random.Generator,
) -> tuple[int, int, int, int]:
    """A part of the canvas that overlaps an object as much as was chosen, and holds the centre of one."""
    if not config.crop_overlaps or not len(boxes_xyxy):
        return canvas
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    while True:
        choice = int(random.integers(len(config.crop_overlaps) + 1))
        if choice == len(config.crop_overlaps):
            return canvas
        regions = _candidate_crops(config, canvas, random)  # [K, 4]
        inside = ((centres > regions[:, None, :2]) & (centres < regions[:, None, 2:])).all(axis=2)  # [K, N]
        overlaps = boxes.iou(regions.astype(np.float32), boxes_xyxy)
        fitting = np.flatnonzero(((overlaps >= config.crop_overlaps[choice]) & inside).any(axis=1))
        if len(fitting):
            left, top, right, bottom = (int(side) for side in regions[fitting[0]])
            return (left, top, right, bottom)


def _candidate_crops(
    config: SSDAugmentConfig, canvas: tuple[int, int, int, int], random: np.random.Generator
) -> NDArray[np.int64]:
    """`[K, 4]` parts of the canvas, K at most the number of trials."""
    corner, size = np.array(canvas[:2]), np.array([canvas[2] - canvas[0], canvas[3] - canvas[1]])
    sides = (size * random.uniform(config.smallest_crop, 1.0, (_TRIALS, 2))).astype(np.int64)  # width, height
    starts = corner + ((size - sides) * random.random((_TRIALS, 2))).astype(np.int64)
    ratio = sides[:, 0] / np.maximum(sides[:, 1], 1)
    right = (sides > 0).all(axis=1) & (ratio >= 1 / _SIDE_RATIO) & (ratio <= _SIDE_RATIO)
    return np.concatenate([starts, starts + sides], axis=1)[right]


def _drawn_colours(
    config: SSDAugmentConfig, random: np.random.Generator
) -> tuple[tuple[tuple[str, float], ...], tuple[int, int, int]]:
    def chosen() -> bool:
        return bool(random.random() < config.photometric_probability)

    def factor(change: float) -> float:
        return float(random.uniform(1 - change, 1 + change))

    contrast_first = bool(random.random() < 0.5)
    brightness = [("brightness", factor(config.brightness))] if chosen() else []
    contrast = [("contrast", factor(config.contrast))] if chosen() else []
    saturation = [("saturation", factor(config.saturation))] if chosen() else []
    hue = [("hue", float(random.uniform(-config.hue, config.hue)))] if chosen() else []
    order = (0, 1, 2)
    if random.random() < config.channel_order_probability:
        first, second, third = (int(channel) for channel in random.permutation(3))
        order = (first, second, third)
    if contrast_first:
        return (*brightness, *contrast, *saturation, *hue), order
    return (*brightness, *saturation, *hue, *contrast), order


def _recoloured(view: SSDView, image: Image.Image) -> Image.Image:
    change = {
        "brightness": F.adjust_brightness,
        "contrast": F.adjust_contrast,
        "saturation": F.adjust_saturation,
        "hue": F.adjust_hue,
    }
    for name, factor in view.colours:
        image = change[name](image, factor)
    if view.channel_order != (0, 1, 2):
        bands = image.split()
        image = Image.merge("RGB", [bands[channel] for channel in view.channel_order])
    return image
