"""PASCAL VOC's average precision, by the 2007 rule and by the rule of 2010 and later.

Follows the development kit's `VOCevaldet.m` and `VOCap.m`. Detections of a class are taken by falling score; each is
compared with the object of its class, difficult or not, that it overlaps most, and with that one only:

- below the IoU threshold it is false;
- at or above it, it is left out if the object is difficult, true if the object was not found before, else false.

The kit counts pixels inclusively, which is what `records.py`'s corners give. Crowd regions are treated as difficult.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tinydet.boxes import iou
from tinydet.evaluation.results import PrecisionRecall
from tinydet.records import Annotations, Detections

Rule = Literal["voc07", "area"]

# `0:0.1:1` as MATLAB fills it, from both ends towards the middle. Its fourth number lies just above 0.3, so that a
# recall of 3/10 does not reach it; 6/10 and 7/10 do reach theirs, which `numpy.arange` would put just above.
RECALLS_2007 = np.concatenate([np.arange(6) * 0.1, 1 - np.arange(4, -1, -1) * 0.1])


@dataclass(frozen=True, eq=False)
class VocClassResult:
    """One class.

    Attributes:
        ap: average precision; NaN where there is no object that is not difficult.
        curve: one point for each detection that counts as true or false.
        objects: those that are not difficult.
        detections: all, those left out for a difficult object included.
    """

    ap: float
    curve: PrecisionRecall
    objects: int
    difficult: int
    detections: int
    true_positives: int


@dataclass(frozen=True, eq=False)
class VocResult:
    """All classes, by name; `mean_ap` is over those with ground truth, NaN when none has any."""

    mean_ap: float
    classes: dict[str, VocClassResult]


@dataclass(frozen=True, eq=False)
class _Matches:
    """Every detection of the set with the object it overlaps most.

    Attributes:
        labels: `[D]`; scores: `[D]` float64.
        ious: `[D]`, -1 where its class has no object in the image.
        objects: `[D]` index into all objects of the set.
        object_labels: `[G]`; object_ignored: `[G]` bool.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    ious: NDArray[np.float64]
    objects: NDArray[np.int64]
    object_labels: NDArray[np.int64]
    object_ignored: NDArray[np.bool_]


def evaluate_voc(
    annotations: Sequence[Annotations],
    detections: Sequence[Detections],
    classes: Sequence[str],
    iou_threshold: float = 0.5,
    rule: Rule = "voc07",
) -> VocResult:
    """AP of each class and their mean.

    Args:
        annotations: of each image; `detections`: of the same images in the same order. Where scores tie, the order
            of the images decides, as the order of lines does for the development kit.
        rule: `voc07`, the mean of eleven precisions (VOC2007 development kit, section 3.4.1), or `area`, the area
            under the monotone curve (VOC2010 and later).

    Raises:
        ValueError: the two have different lengths, a label has no class, or the threshold is not in 0..1.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}, expected more than 0 and at most 1")
    matches = _match(annotations, detections)
    for what, labels in (("annotation", matches.object_labels), ("detection", matches.labels)):
        if labels.size and labels.max() >= len(classes):
            raise ValueError(f"{what} with label {labels.max()}, but there are {len(classes)} classes")
    results = {name: _evaluate_class(matches, label, iou_threshold, rule) for label, name in enumerate(classes)}
    aps = [result.ap for result in results.values() if result.objects]
    return VocResult(float(np.mean(aps)) if aps else float("nan"), results)


def average_precision(recall: NDArray[np.float64], precision: NDArray[np.float64], rule: Rule) -> float:
    """AP of one curve, `[D]` each, recall ascending; 0 for an empty one."""
    # The best precision at or beyond each point.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if rule == "voc07":
        first = np.searchsorted(recall, RECALLS_2007, side="left")
        return float(np.append(envelope, 0.0)[first].sum() / len(RECALLS_2007))
    if rule == "area":
        return float((np.diff(recall, prepend=0.0) * envelope).sum())
    raise ValueError(f"rule {rule!r}, expected 'voc07' or 'area'")


def _match(annotations: Sequence[Annotations], detections: Sequence[Detections]) -> _Matches:
    if len(annotations) != len(detections):
        raise ValueError(f"annotations of {len(annotations)} images, detections of {len(detections)}")
    ious: list[NDArray[np.float64]] = [np.zeros(0)]
    objects: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    first_object = 0
    for truth, found in zip(annotations, detections):
        if len(truth) and len(found):
            overlaps = iou(found.boxes_xyxy.astype(np.float64), truth.boxes_xyxy.astype(np.float64))  # [D, G]
            overlaps[found.labels[:, None] != truth.labels[None, :]] = -1
            best = overlaps.argmax(axis=1)
            ious.append(overlaps[np.arange(len(found)), best])
            objects.append(first_object + best)
        else:
            ious.append(np.full(len(found), -1.0))
            objects.append(np.zeros(len(found), np.int64))
        first_object += len(truth)
    none = np.zeros(0)
    return _Matches(
        labels=np.concatenate([none, *(found.labels for found in detections)]).astype(np.int64),
        scores=np.concatenate([none, *(found.scores for found in detections)]),
        ious=np.concatenate(ious),
        objects=np.concatenate(objects),
        object_labels=np.concatenate([none, *(truth.labels for truth in annotations)]).astype(np.int64),
        object_ignored=np.concatenate([none, *(truth.difficult | truth.crowd for truth in annotations)]).astype(bool),
    )


def _evaluate_class(matches: _Matches, label: int, iou_threshold: float, rule: Rule) -> VocClassResult:
    ours = np.flatnonzero(matches.labels == label)
    order = ours[np.argsort(-matches.scores[ours], kind="stable")]
    hit = matches.ious[order] >= iou_threshold
    left_out = np.zeros(len(order), bool)
    left_out[hit] = matches.object_ignored[matches.objects[order[hit]]]
    hit, scores, objects = hit[~left_out], matches.scores[order[~left_out]], matches.objects[order[~left_out]]

    is_true = np.zeros(len(scores), bool)
    _, first = np.unique(objects[hit], return_index=True)  # later ones are duplicates
    is_true[np.flatnonzero(hit)[first]] = True

    of_class = matches.object_labels == label
    count = int((of_class & ~matches.object_ignored).sum())
    found = np.cumsum(is_true)
    precision = found / np.arange(1, len(found) + 1)
    recall = found / count if count else np.zeros(len(found))
    return VocClassResult(
        ap=average_precision(recall, precision, rule) if count else float("nan"),
        curve=PrecisionRecall(precision, recall, scores),
        objects=count,
        difficult=int(of_class.sum()) - count,
        detections=len(order),
        true_positives=int(is_true.sum()),
    )
