"""A look at a data set before training: what there is of each class, how large, of what shape, in what images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydet.datasets.split import unique_samples
from tinydet.errors import MissingExtraError
from tinydet.files import replacing
from tinydet.records import Dataset, Sample

if TYPE_CHECKING:
    from rich.console import Console

_QUANTILES = (0, 5, 25, 50, 75, 95, 100)
_SMALL_PX, _LARGE_PX = 32, 96  # COCO's bounds between small, medium and large


@dataclass(frozen=True)
class SplitStatistics:
    """Counts of one split.

    Attributes:
        empty_images: those without any object.
        boxes_by_class, images_by_class: every class of the set, also where it is 0.
    """

    images: int
    empty_images: int
    boxes: int
    difficult: int
    crowd: int
    boxes_by_class: dict[str, int]
    images_by_class: dict[str, int]


@dataclass(frozen=True)
class Statistics:
    """Counts by split; distributions over all images, each counted once.

    Distributions are quantiles by percent, `{"0": least, "50": median, "100": most}`; None where there is no box.

    Attributes:
        box_side_px: the square root of a box's area.
        box_share: a box's area as a part of its image's.
        aspect_ratio: a box's width by its height.
        boxes_by_size: COCO's small (area below 32 x 32), medium, large (from 96 x 96).
        image_sizes: images of each size, `640x480` being width and height, the most frequent first.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, SplitStatistics]
    box_side_px: dict[str, float] | None
    box_share: dict[str, float] | None
    aspect_ratio: dict[str, float] | None
    boxes_per_image: dict[str, float] | None
    boxes_by_size: dict[str, int]
    image_sizes: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Measures:
    """`[N]` of every box, and `[I]` of every image."""

    sides_px: NDArray[Any]
    shares: NDArray[Any]
    ratios: NDArray[Any]
    labels: NDArray[np.int64]
    counts: NDArray[Any]
    sizes_hw: list[tuple[int, int]]


def dataset_statistics(dataset: Dataset) -> Statistics:
    measures = _measure(unique_samples(dataset))
    areas = measures.sides_px**2
    small, large = int((areas < _SMALL_PX**2).sum()), int((areas >= _LARGE_PX**2).sum())
    sizes = Counter(f"{width}x{height}" for height, width in measures.sizes_hw)
    return Statistics(
        name=dataset.name,
        classes=dataset.classes,
        splits={split: _count(samples, dataset.classes) for split, samples in dataset.splits.items()},
        box_side_px=_quantiles(measures.sides_px),
        box_share=_quantiles(measures.shares),
        aspect_ratio=_quantiles(measures.ratios),
        boxes_per_image=_quantiles(measures.counts),
        boxes_by_size={"small": small, "medium": len(areas) - small - large, "large": large},
        image_sizes=dict(sizes.most_common()),
    )


def _count(samples: Sequence[Sample], classes: Sequence[str]) -> SplitStatistics:
    boxes, images = np.zeros(len(classes), int), np.zeros(len(classes), int)
    for sample in samples:
        counts = np.bincount(sample.annotations.labels, minlength=len(classes))
        boxes += counts
        images += counts > 0
    return SplitStatistics(
        images=len(samples),
        empty_images=sum(len(sample.annotations) == 0 for sample in samples),
        boxes=int(boxes.sum()),
        difficult=sum(int(sample.annotations.difficult.sum()) for sample in samples),
        crowd=sum(int(sample.annotations.crowd.sum()) for sample in samples),
        boxes_by_class=dict(zip(classes, boxes.tolist())),
        images_by_class=dict(zip(classes, images.tolist())),
    )


def _measure(samples: Sequence[Sample]) -> _Measures:
    boxes = np.concatenate([np.zeros((0, 4)), *(s.annotations.boxes_xyxy.astype(float) for s in samples)])
    counts = np.array([len(sample.annotations) for sample in samples], float)
    image_areas = np.repeat([float(s.size_hw[0] * s.size_hw[1]) for s in samples], counts.astype(int))
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return _Measures(
        sides_px=np.sqrt(widths * heights),
        shares=widths * heights / image_areas,
        ratios=widths / heights,
        labels=np.concatenate([np.zeros(0, np.int64), *(s.annotations.labels for s in samples)]),
        counts=counts,
        sizes_hw=[sample.size_hw for sample in samples],
    )


def _quantiles(values: NDArray[Any]) -> dict[str, float] | None:
    if not len(values):
        return None
    return {str(q): round(float(value), 5) for q, value in zip(_QUANTILES, np.percentile(values, _QUANTILES))}


def print_statistics(statistics: Statistics, console: Console) -> None:
    """Three tables: images and boxes of each split, boxes of each class, and how sizes are distributed."""
    from rich.table import Table

    table = Table("split", *("images", "without object", "boxes", "difficult", "crowd"), title=statistics.name)
    for name, split in statistics.splits.items():
        counts = (split.images, split.empty_images, split.boxes, split.difficult, split.crowd)
        table.add_row(name, *map(str, counts))
    console.print(table)
    table = Table("class", *statistics.splits, title="boxes (images) of each class")
    for name in statistics.classes:
        splits = statistics.splits.values()
        table.add_row(name, *(f"{s.boxes_by_class[name]} ({s.images_by_class[name]})" for s in splits))
    console.print(table)
    table = Table("percent of boxes below", *(f"{q} %" for q in _QUANTILES), title="distributions, each image once")
    rows = {
        "box side, pixels": statistics.box_side_px,
        "box area / image area": statistics.box_share,
        "width / height": statistics.aspect_ratio,
        "boxes an image": statistics.boxes_per_image,
    }
    for name, quantiles in rows.items():
        table.add_row(
            name, *(f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in (quantiles or {}).values())
        )
    console.print(table)
    sizes = ", ".join(f"{count} {size}" for size, count in statistics.boxes_by_size.items())
    console.print(f"Boxes by COCO's sizes: {sizes}")
    common = list(statistics.image_sizes.items())
    shown = ", ".join(f"{size} ({count})" for size, count in common[:5])
    more = f", and {len(common) - 5} other sizes" if len(common) > 5 else ""
    console.print(f"Image sizes, width x height: {shown}{more}")


def plot_statistics(dataset: Dataset, path: str | os.PathLike[str]) -> None:
    """Draw boxes by class and split, box sides, aspect ratios and image sizes into one PNG file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("plotting", "plots") from error
    statistics, measures = dataset_statistics(dataset), _measure(unique_samples(dataset))
    figure = Figure(figsize=(12, 9), layout="constrained")
    by_class, sides, ratios, images = figure.subplots(2, 2).flat
    figure.suptitle(f"{dataset.name}: {len(measures.sizes_hw)} images, {len(measures.labels)} boxes")
    _draw_classes(by_class, statistics)
    if len(measures.sides_px):
        low, high = max(1.0, measures.sides_px.min() * 0.99), max(2.0, measures.sides_px.max() * 1.01)
        sides.hist(measures.sides_px, bins=np.geomspace(low, high, 40), color="#4477aa")
        sides.set_xscale("log")
        bound = max(1.2, float(np.abs(np.log2(measures.ratios)).max()))
        ratios.hist(np.log2(measures.ratios), bins=np.linspace(-bound, bound, 41), color="#228833")
    sides.set(title="Side of a box: square root of its area", xlabel="pixels", ylabel="boxes")
    ratios.set(title="Shape of a box", xlabel="log2 of width / height: 0 is square, 1 twice as wide", ylabel="boxes")
    sizes = np.array(measures.sizes_hw, float).reshape(-1, 2)
    images.scatter(sizes[:, 1], sizes[:, 0], s=18, alpha=0.4, color="#aa3377", linewidths=0)
    images.set(title="Size of an image", xlabel="width, pixels", ylabel="height, pixels", aspect="equal")
    images.set(xlim=(0, None), ylim=(0, None))
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw_classes(axes: Any, statistics: Statistics) -> None:
    classes, splits = statistics.classes, statistics.splits
    places = np.arange(len(classes))
    height = 0.8 / max(1, len(splits))
    for number, (name, split) in enumerate(splits.items()):
        axes.barh(places + number * height, [split.boxes_by_class[c] for c in classes], height, label=name)
    axes.set_yticks(places + 0.4 - height / 2, classes, fontsize=8)
    axes.invert_yaxis()
    axes.set(title="Boxes of each class", xlabel="boxes")
    axes.legend(fontsize=8)
