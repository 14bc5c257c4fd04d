"""WIDER FACE's validation protocol: AP of the easy, medium and hard subsets.

Follows the official tool (`wider_eval.m` of the set's evaluation tools):

- Scores are stretched to 0..1 over the whole set, and precision and recall are taken at the 1,000 thresholds 0.999,
  0.998, ..., 0.
- All faces of an image take part in matching; those outside the subset are left out of the count. By falling score,
  each detection meets the face it overlaps most. If that face is outside the subset, the detection is left out; if not,
  the face is found, and a second detection of it is false.
- An image without any face is passed over, its detections too.
- A box `x y width height` covers `width + 1` by `height + 1` pixels, for faces and detections alike.
- AP is the area under the monotone curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydet.boxes import iou
from tinydet.errors import InputError, MissingExtraError
from tinydet.evaluation.results import PrecisionRecall
from tinydet.evaluation.voc import average_precision
from tinydet.records import Detections

SUBSETS = ("easy", "medium", "hard")
FACES_FILE = "wider_face_val.mat"
THRESHOLDS = 1 - np.arange(1, 1001) / 1000  # 0.999 down to 0

_INCLUSIVE = np.array([0.0, 0.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class WiderFaces:
    """The faces of one image.

    Attributes:
        boxes_xyxy: `[N, 4]` float64, `x, y, x + width, y + height`.
        counted: by subset, `[N]` bool; those that the subset asks for.
    """

    boxes_xyxy: NDArray[np.float64]
    counted: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class WiderResult:
    """By subset: AP, the curve at the 1,000 thresholds, and how many faces it has."""

    ap: dict[str, float]
    curves: dict[str, PrecisionRecall]
    faces: dict[str, int]


def subset_file(subset: str) -> str:
    return f"wider_{subset}_val.mat"


def read_ground_truth(folder: Path) -> dict[str, WiderFaces]:
    """The official ground truth, by `event/file stem`.

    Args:
        folder: holds `wider_face_val.mat` and `wider_easy_val.mat`, `wider_medium_val.mat`, `wider_hard_val.mat`.

    Raises:
        InputError: one of them is missing or not what it should be.
        MissingExtraError: scipy, which reads MATLAB's files, is not installed.
    """
    boxes_xywh = _per_image(folder / FACES_FILE, "face_bbx_list")
    chosen = {subset: _per_image(folder / subset_file(subset), "gt_list") for subset in SUBSETS}
    faces = {}
    for name, xywh in boxes_xywh.items():
        corners = xywh.reshape(-1, 4).astype(np.float64)
        corners[:, 2:] += corners[:, :2]
        counted = {}
        for subset, lists in chosen.items():
            counted[subset] = np.zeros(len(corners), bool)
            numbers = lists.get(name, np.zeros(0)).reshape(-1).astype(np.int64)  # from 1
            if numbers.size and not (numbers.min() > 0 and numbers.max() <= len(corners)):
                raise InputError(
                    f"{folder / subset_file(subset)}: gt_list of {name} numbers its faces {numbers.min()} to "
                    f"{numbers.max()}, but there are {len(corners)}; fetch the file again"
                )
            counted[subset][numbers - 1] = True
        faces[name] = WiderFaces(corners, counted)
    return faces


def _per_image(path: Path, field: str) -> dict[str, NDArray[Any]]:
    """A field of a ground-truth file, by `event/file stem`."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise MissingExtraError("the WIDER FACE protocol", "wider") from None
    if not path.is_file():
        names = ", ".join([FACES_FILE, *map(subset_file, SUBSETS)])
        raise InputError(f"{path}: no such file; the official ground truth is a folder with {names}")
    try:
        content = loadmat(path, variable_names=["event_list", "file_list", field])
        values = {}
        for event, files, entries in zip(content["event_list"], content["file_list"], content[field]):
            for file, entry in zip(files[0], entries[0], strict=True):
                values[f"{event[0][0]}/{file[0][0]}"] = entry[0]
    except Exception as error:  # whatever scipy makes of a damaged file
        raise InputError(f"{path}: not WIDER FACE's ground truth ({error!r}); fetch the file again") from error
    return values


def evaluate_wider_face(
    ground_truth: Mapping[str, WiderFaces], detections: Mapping[str, Detections], iou_threshold: float = 0.5
) -> WiderResult:
    """AP by subset.

    Args:
        detections: by `event/file stem`; an image without an entry has none.

    Raises:
        ValueError: a detection's image is not in the ground truth.
    """
    unknown = sorted(detections.keys() - ground_truth.keys())
    if unknown:
        raise ValueError(
            f"detections of {len(unknown)} images that are not in the ground truth, such as {unknown[0]!r}"
        )
    steps = _steps(detections)
    # How many count as proposals, and how many faces are found, at each threshold and not before.
    proposals = {subset: np.zeros(len(THRESHOLDS), np.int64) for subset in SUBSETS}
    found = {subset: np.zeros(len(THRESHOLDS), np.int64) for subset in SUBSETS}
    for name, faces in ground_truth.items():
        if name not in detections or not len(detections[name]) or not len(faces.boxes_xyxy):
            continue
        corners = detections[name].boxes_xyxy.astype(np.float64)
        overlaps = iou(corners + _INCLUSIVE, faces.boxes_xyxy + _INCLUSIVE)  # [D, G]
        best = overlaps.argmax(axis=1)
        hit = overlaps[np.arange(len(best)), best] >= iou_threshold
        for subset in SUBSETS:
            inside = faces.counted[subset][best]
            true = np.flatnonzero(hit & inside)
            first = true[np.unique(best[true], return_index=True)[1]]
            np.add.at(proposals[subset], steps[name][~hit | inside], 1)
            np.add.at(found[subset], steps[name][first], 1)
    counts = {subset: sum(int(faces.counted[subset].sum()) for faces in ground_truth.values()) for subset in SUBSETS}
    curves, ap = {}, {}
    for subset, count in counts.items():
        curve = _curve(np.cumsum(proposals[subset]), np.cumsum(found[subset]), count)
        curves[subset] = curve
        ap[subset] = average_precision(curve.recall, curve.precision, "area") if count else float("nan")
    return WiderResult(ap, curves, counts)


def _steps(detections: Mapping[str, Detections]) -> dict[str, NDArray[np.int64]]:
    """For each detection the first threshold that its stretched score reaches."""
    ends = [(found.scores[-1], found.scores[0]) for found in detections.values() if len(found)]
    lowest = float(min((low for low, _ in ends), default=0))
    highest = float(max((high for _, high in ends), default=1))
    span = highest - lowest or 1.0
    return {
        name: np.searchsorted(-THRESHOLDS, -((found.scores.astype(np.float64) - lowest) / span))
        for name, found in detections.items()
    }


def _curve(proposals: NDArray[np.int64], found: NDArray[np.int64], faces: int) -> PrecisionRecall:
    precision = np.divide(found, proposals, out=np.zeros(len(found)), where=proposals > 0)
    recall = found / faces if faces else np.zeros(len(found))
    return PrecisionRecall(precision, recall, THRESHOLDS)
