"""Box arithmetic on numpy arrays. Boxes are `[N, 4]`, `x_min, y_min, x_max, y_max`, unless a name says otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def area(boxes_xyxy: Array) -> Array:
    """`[N]` areas in square pixels; a box with swapped corners has area 0."""
    sides = np.maximum(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def xywh_to_xyxy(boxes_xywh: Array) -> Array:
    """Corner and size (COCO's layout) to two corners."""
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)


def xyxy_to_xywh(boxes_xyxy: Array) -> Array:
    """Two corners to corner and size (COCO's layout)."""
    return np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1)


def cxcywh_to_xyxy(boxes_cxcywh: Array) -> Array:
    """Centre and size (YOLO's layout) to two corners."""
    half = boxes_cxcywh[:, 2:] / 2
    return np.concatenate([boxes_cxcywh[:, :2] - half, boxes_cxcywh[:, :2] + half], axis=1)


def xyxy_to_cxcywh(boxes_xyxy: Array) -> Array:
    """Two corners to centre and size (YOLO's layout)."""
    return np.concatenate([(boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2, boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1)


def clip(boxes_xyxy: Array, size_hw: tuple[int, int]) -> Array:
    """Boxes cut to an image of this height and width."""
    height, width = size_hw
    return np.clip(boxes_xyxy, 0, np.array([width, height, width, height], boxes_xyxy.dtype))


def iou(first_xyxy: Array, second_xyxy: Array) -> Array:
    """`[N, M]` intersection over union; 0 where both boxes are empty."""
    top_left = np.maximum(first_xyxy[:, None, :2], second_xyxy[None, :, :2])
    bottom_right = np.minimum(first_xyxy[:, None, 2:], second_xyxy[None, :, 2:])
    sides = np.maximum(bottom_right - top_left, 0)  # [N, M, 2]
    intersection = sides[..., 0] * sides[..., 1]
    union = area(first_xyxy)[:, None] + area(second_xyxy)[None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection, dtype=float), where=union > 0)


def nms(boxes_xyxy: Array, scores: Array, iou_threshold: float) -> NDArray[np.int64]:
    """Indices of the boxes kept by greedy non-maximum suppression, highest score first; ties keep their order."""
    order = np.argsort(-scores, kind="stable")
    areas = area(boxes_xyxy)
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        top_left = np.maximum(boxes_xyxy[best, :2], boxes_xyxy[rest, :2])
        bottom_right = np.minimum(boxes_xyxy[best, 2:], boxes_xyxy[rest, 2:])
        sides = np.maximum(bottom_right - top_left, 0)
        intersection = sides[:, 0] * sides[:, 1]
        union = areas[best] + areas[rest] - intersection
        order = rest[intersection <= iou_threshold * union]
    return np.array(kept, np.int64)
