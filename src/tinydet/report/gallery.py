"""Pictures on the page: each image once, with boxes as SVG over it, so that they stay sharp and can be switched."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from tinydet.drawing import class_colour
from tinydet.records import Annotations, Detections
from tinydet.report.pictures import PictureRow, Pictures, hits
from tinydet.report.summary import RunSummary

FIRST_SCORE = 0.5  # from which boxes show before the reader moves the slider


def gallery_html(pictures: Pictures, summary: RunSummary, prefix: str) -> str:
    """All rows of pictures. `prefix` keeps the ids of several runs on one page apart."""
    names = [
        variant.name for variant in summary.variants if any(variant.name in row.detections for row in pictures.rows)
    ]
    names += [name for name in dict.fromkeys(n for row in pictures.rows for n in row.detections) if name not in names]
    rows = [_row_html(row, pictures.classes, names, summary, f"{prefix}p{i}") for i, row in enumerate(pictures.rows)]
    return _class_legend(pictures) + _slider() + "".join(rows)


def _class_legend(pictures: Pictures) -> str:
    labels: set[int] = set()
    for row in pictures.rows:
        for present in (row.annotations.labels, *(found.labels for found in row.detections.values())):
            labels.update(present.tolist())
    chips = [
        f'<span style="--c:{_hex(label)}"><i class="swatch"></i>{escape(pictures.classes[label])}</span>'
        for label in sorted(labels)
    ]
    return f'<div class="legend">{"".join(chips)}</div>'


def _slider() -> str:
    value = round(100 * FIRST_SCORE)
    return (
        '<div class="controls"><label>boxes of score from '
        f'<input type="range" min="10" max="99" value="{value}" aria-label="lowest score shown">'
        f"<output>{FIRST_SCORE:.2f}</output></label></div>"
    )


def _row_html(row: PictureRow, classes: Sequence[str], names: Sequence[str], summary: RunSummary, image_id: str) -> str:
    height, width = row.size_hw
    data = base64.b64encode(row.jpeg.read_bytes()).decode("ascii")
    image = (
        '<svg width="0" height="0" style="position:absolute" aria-hidden="true"><defs>'
        f'<image id="{image_id}" width="{width}" height="{height}" preserveAspectRatio="none" '
        f'href="data:image/jpeg;base64,{data}"/></defs></svg>'
    )
    counted = int((~(row.annotations.difficult | row.annotations.crowd)).sum())
    truth = _photo(row, image_id, _truth_boxes(row.annotations, classes), f"ground truth of {row.image_id}")
    cells = [f"<figure>{truth}<figcaption>Ground truth<span>{counted} objects</span></figcaption></figure>"]
    for name in names:
        variant = summary.variant(name)
        title = variant.title if variant else name
        detections = row.detections.get(name, Detections.empty())
        boxes, tally = _detection_boxes(row.annotations, detections, classes)
        photo = _photo(row, image_id, boxes, f"{title} on {row.image_id}")
        cells.append(
            f'<figure data-objects="{counted}">{photo}<figcaption>{escape(title)}'
            f'<span class="tally">{tally} of {counted} found</span></figcaption></figure>'
        )
    return (
        f'<div class="picture">{image}<h3>{escape(row.image_id)}</h3>'
        f'<div class="cells" style="--n:{_columns(len(cells))}">{"".join(cells)}</div></div>'
    )


def _columns(cells: int) -> int:
    """How many stand side by side on a wide screen, so that the last row is not left nearly empty."""
    return cells if cells <= 4 else min((4, 3), key=lambda columns: -cells % columns)


def _photo(row: PictureRow, image_id: str, boxes: str, label: str) -> str:
    height, width = row.size_hw
    return (
        f'<svg class="photo" viewBox="0 0 {width} {height}" style="--f:{width / 25:.2f}px" role="img" '
        f'aria-label="{escape(label, quote=True)}"><use href="#{image_id}"/>{boxes}</svg>'
    )


def _truth_boxes(annotations: Annotations, classes: Sequence[str]) -> str:
    parts = []
    for index, (box, label) in enumerate(zip(annotations.boxes_xyxy.tolist(), annotations.labels.tolist())):
        neutral = bool(annotations.difficult[index] or annotations.crowd[index])
        kind = "neutral" if neutral else ""
        name = classes[label]
        hint = f"{name} (crowd)" if annotations.crowd[index] else f"{name} (difficult)" if neutral else name
        parts.append(f'<g class="{kind}" style="--k:{_hex(label)}">{_box(box, hint)}</g>')
    return "".join(parts)


def _detection_boxes(annotations: Annotations, detections: Detections, classes: Sequence[str]) -> tuple[str, int]:
    """The boxes, the best last so that it lies on top, and how many objects are found at the first score."""
    kinds = ["right" if hit >= 0 else "neutral" if hit == -2 else "wrong" for hit in hits(annotations, detections)]
    boxes, numbers = [], []
    for index in reversed(range(len(detections))):
        label, score = int(detections.labels[index]), float(detections.scores[index])
        hidden = " off" if score < FIRST_SCORE else ""
        hint = f"{classes[label]} {score:.2f}, {kinds[index]}"
        box = detections.boxes_xyxy[index].tolist()
        boxes.append(
            f'<g class="{kinds[index]}{hidden}" data-score="{score:.4f}" style="--k:{_hex(label)}">'
            f"{_box(box, hint)}</g>"
        )
        numbers.append(
            f'<g class="number{hidden}" data-score="{score:.4f}"><text x="{box[0]:.1f}" y="{box[1]:.1f}" dx=".2em" '
            f'dy=".95em">{100 * score:.0f}</text></g>'
        )
    found = sum(kind == "right" and score >= FIRST_SCORE for kind, score in zip(kinds, detections.scores))
    return "".join(boxes + numbers), found  # no box lies over a number


def _box(box: list[float], hint: str) -> str:
    x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<title>{escape(hint)}</title><rect class="under" {place}/><rect class="over" {place}/>'


def _hex(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*class_colour(label))
