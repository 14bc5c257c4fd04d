"""COCO's metrics, by hotcoco.

Objects that are difficult are given to it as crowd regions, which it neither rewards nor punishes. An object's size,
which makes it small, medium or large, is its box's area: records hold no outlines, so on sets with outlines these three
differ a little from figures that take the area of the outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydet import boxes
from tinydet.records import Annotations, Detections

_ALL_SIZES, _SMALL, _MEDIUM, _LARGE = range(4)
_MOST_DETECTIONS = (1, 10, 100)
_IOU_50, _IOU_75 = 0, 5  # in 0.5, 0.55, ..., 0.95


@dataclass(frozen=True)
class CocoResult:
    """COCO's twelve numbers by name, and AP by class; NaN where there is no ground truth.

    Attributes:
        metrics: AP, AP50, AP75, APs, APm, APl (small, medium, large), AR1, AR10, AR100, ARs, ARm, ARl; and `mAP@0.5`,
            another name of AP50.
        per_class: AP over IoU 0.5 to 0.95; `per_class_50`: at IoU 0.5.
    """

    metrics: dict[str, float]
    per_class: dict[str, float]
    per_class_50: dict[str, float]


def evaluate_coco(
    annotations: Sequence[Annotations], detections: Sequence[Detections], classes: Sequence[str]
) -> CocoResult:
    """COCO's box metrics over images given in the same order.

    Raises:
        ValueError: the two have different lengths, or a label has no class.
    """
    if len(annotations) != len(detections):
        raise ValueError(f"annotations of {len(annotations)} images, detections of {len(detections)}")
    for what, records in (("annotation", annotations), ("detection", detections)):
        highest = max((record.labels.max() for record in records if len(record)), default=-1)
        if highest >= len(classes):
            raise ValueError(f"{what} with label {highest}, but there are {len(classes)} classes")
    if not annotations or not classes:
        return _result(np.full((10, 101, len(classes), 4, 3), -1.0), np.full((10, len(classes), 4, 3), -1.0), classes)
    return _result(*_accumulated(annotations, detections, len(classes)), classes)


def _accumulated(
    annotations: Sequence[Annotations], detections: Sequence[Detections], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision `[IoU, recall, class, size, limit]` and recall `[IoU, class, size, limit]`; -1 without ground truth."""
    from hotcoco import COCO, COCOeval

    sides = [np.ceil(truth.boxes_xyxy[:, 2:].max(axis=0, initial=1)) for truth in annotations]
    truth_images = np.repeat(np.arange(1, len(annotations) + 1), [len(truth) for truth in annotations])
    found_images = np.repeat(np.arange(1, len(detections) + 1), [len(found) for found in detections])
    truth_xywh = boxes.xyxy_to_xywh(np.concatenate([t.boxes_xyxy for t in annotations]).astype(np.float64))
    found_xywh = boxes.xyxy_to_xywh(np.concatenate([d.boxes_xyxy for d in detections]).astype(np.float64))
    truth = COCO.from_arrays(
        [{"id": n, "width": int(side[0]), "height": int(side[1])} for n, side in enumerate(sides, 1)],
        [{"id": label + 1, "name": str(label + 1)} for label in range(classes)],
        image_ids=truth_images,
        category_ids=np.concatenate([t.labels for t in annotations]) + 1,
        boxes=truth_xywh,
        area=truth_xywh[:, 2] * truth_xywh[:, 3],
        iscrowd=np.concatenate([t.crowd | t.difficult for t in annotations]).astype(np.int64),
    )
    found = truth.load_res(
        np.column_stack(
            [
                found_images,
                found_xywh,
                np.concatenate([d.scores for d in detections]).astype(np.float64),
                np.concatenate([d.labels for d in detections]) + 1,
            ]
        )
    )
    run = COCOeval(truth, found, "bbox")
    run.evaluate()
    run.accumulate()  # `summarize` would print
    assert run.eval is not None
    return np.asarray(run.eval["precision"]), np.asarray(run.eval["recall"])


def _mean(values: NDArray[np.float64]) -> float:
    known = values[values > -1]
    return float(np.mean(known)) if known.size else float("nan")


def _result(precision: NDArray[np.float64], recall: NDArray[np.float64], classes: Sequence[str]) -> CocoResult:
    metrics = {
        "AP": _mean(precision[:, :, :, _ALL_SIZES, -1]),
        "AP50": _mean(precision[_IOU_50, :, :, _ALL_SIZES, -1]),
        "AP75": _mean(precision[_IOU_75, :, :, _ALL_SIZES, -1]),
    }
    sizes = {"s": _SMALL, "m": _MEDIUM, "l": _LARGE}
    metrics |= {f"AP{name}": _mean(precision[:, :, :, size, -1]) for name, size in sizes.items()}
    metrics |= {f"AR{most}": _mean(recall[:, :, _ALL_SIZES, at]) for at, most in enumerate(_MOST_DETECTIONS)}
    metrics |= {f"AR{name}": _mean(recall[:, :, size, -1]) for name, size in sizes.items()}
    metrics["mAP@0.5"] = metrics["AP50"]
    of_class = [precision[:, :, label, _ALL_SIZES, -1] for label in range(len(classes))]
    return CocoResult(
        metrics,
        {name: _mean(values) for name, values in zip(classes, of_class)},
        {name: _mean(values[_IOU_50]) for name, values in zip(classes, of_class)},
    )
