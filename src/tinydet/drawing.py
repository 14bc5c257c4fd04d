"""Boxes drawn on an image, with Pillow alone."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from tinydet.records import Annotations, Detections

Colour = tuple[int, int, int]
_Box = tuple[float, float, float, float]

# Far apart from one another and from what photographs mostly show.
_COLOURS: tuple[Colour, ...] = (
    (255, 59, 48), (0, 122, 255), (52, 199, 89), (255, 149, 0), (175, 82, 222), (0, 199, 190),
    (255, 204, 0), (255, 45, 146), (88, 86, 214), (162, 200, 40), (162, 110, 60), (90, 200, 250),
)  # fmt: skip


def class_colour(label: int) -> Colour:
    """The same colour for the same label everywhere; unlike ones for the first dozen, then spread over the hues."""
    if label < len(_COLOURS):
        return _COLOURS[label]
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1, 0.55 + 0.3 * (label % 2), 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever reads better on the background (WCAG's relative luminance)."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else (255, 255, 255)


def draw_detections(image: Image.Image, detections: Detections, classes: Sequence[str]) -> Image.Image:
    """A copy of the image with every detection's box, class and score; the best lies on top.

    Raises:
        ValueError: a label has no class name.
    """
    texts = [f"{_name(classes, label)} {score:.2f}" for label, score in zip(detections.labels, detections.scores)]
    return _draw(image, detections.boxes_xyxy.tolist(), detections.labels.tolist(), texts)


def draw_annotations(image: Image.Image, annotations: Annotations, classes: Sequence[str]) -> Image.Image:
    """A copy of the image with every object's box and class; difficult objects and crowds say so.

    Raises:
        ValueError: a label has no class name.
    """
    texts = []
    for label, difficult, crowd in zip(annotations.labels, annotations.difficult, annotations.crowd):
        texts.append(_name(classes, label) + (" (crowd)" if crowd else " (difficult)" if difficult else ""))
    return _draw(image, annotations.boxes_xyxy.tolist(), annotations.labels.tolist(), texts)


def _name(classes: Sequence[str], label: int) -> str:
    if label >= len(classes):
        raise ValueError(f"label {label}, but only {len(classes)} class names: {', '.join(classes)}")
    return classes[label]


def _draw(image: Image.Image, boxes_xyxy: list[list[float]], labels: list[int], texts: list[str]) -> Image.Image:
    drawn = image.convert("RGB") if image.mode != "RGB" else image.copy()
    canvas = ImageDraw.Draw(drawn)
    shorter = min(drawn.size)
    line = max(2, round(shorter / 160))
    text_size = max(10, min(round(shorter / 30), 48))
    for box, label in reversed(list(zip(boxes_xyxy, labels))):
        _draw_box(canvas, box, class_colour(label), line, drawn.size)
    taken: list[_Box] = []
    plates = []
    for box, label, text in zip(boxes_xyxy, labels, texts):
        place = _place_label(canvas, box, text, text_size, drawn.size, taken)
        taken.append(place)
        plates.append((place, class_colour(label), text))
    for place, colour, text in reversed(plates):  # the best detection's label is never covered
        canvas.rectangle(place, fill=colour)
        padding = _padding(text_size)
        canvas.text(
            (place[0] + padding, (place[1] + place[3]) / 2),
            text,
            fill=text_colour(colour),
            font=_font(text_size, text.isascii()),
            anchor="lm",
        )
    return drawn


def _draw_box(canvas: ImageDraw.ImageDraw, box: list[float], colour: Colour, line: int, size: tuple[int, int]) -> None:
    left, top = max(box[0], 0), max(box[1], 0)
    right, bottom = max(left, min(box[2], size[0]) - 1), max(top, min(box[3], size[1]) - 1)
    # A dark rim, so that the box is seen on any ground.
    canvas.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0, 0, 0), width=line + 2)
    canvas.rectangle((left, top, right, bottom), outline=colour, width=line)


def _padding(text_size: int) -> int:
    return max(2, text_size // 4)


def _place_label(
    canvas: ImageDraw.ImageDraw, box: list[float], text: str, text_size: int, size: tuple[int, int], taken: list[_Box]
) -> _Box:
    """Above the box; below or inside where there is no room or another label lies; never beyond the image."""
    padding = _padding(text_size)
    width = canvas.textlength(text, font=_font(text_size, text.isascii())) + 2 * padding
    height = round(text_size * 1.3)
    left = min(max(box[0] - 1, 0), max(size[0] - width, 0))
    right = min(max(box[2] - width, 0), max(size[0] - width, 0))
    tops = [box[1] - height, box[3], box[1], box[3] - height]
    places = [(x, y, x + width, y + height) for y in tops for x in (left, right) if 0 <= y <= size[1] - height]
    for place in places:
        if not any(_overlap(place, other) for other in taken):
            return place
    top = min(max(box[1], 0), max(size[1] - height, 0))
    return places[0] if places else (left, top, left + width, top + height)


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@lru_cache(maxsize=32)
def _font(size: int, ascii_only: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; for other letters than ASCII's, one of the system's, where it has one."""
    if not ascii_only:
        for name in ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf"):
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)
