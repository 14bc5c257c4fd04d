"""Whether an exported file detects what the torch detector detects, on real images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tinydet.boxes import iou
from tinydet.records import Detections


@dataclass(frozen=True)
class Tolerance:
    """What counts as the same.

    Attributes:
        iou, score: two detections of one label are the same when their boxes overlap at least so much and their
            scores differ at most so much.
        other_share: of all detections, those that may lack a partner. Where two boxes have all but equal scores, the
            last bit decides which of them NMS keeps; and Q turns a difference in the last bit of a feature into a
            whole step.
    """

    iou: float = 0.99
    score: float = 0.005
    other_share: float = 0.02


@dataclass(frozen=True)
class Agreement:
    """What comparing detections on some images gave.

    Attributes:
        same: pairs of the same detection.
        other: detections of either side without a partner; those within the tolerance of the score threshold, or of the
            lowest score of a full list, are not counted, because they may rightly be there or not.
        max_box_difference_px: largest difference of a coordinate within a pair, in pixels of the resized image.
        max_score_difference: within a pair.
    """

    images: int
    same: int
    other: int
    max_box_difference_px: float
    max_score_difference: float

    def within(self, tolerance: Tolerance) -> bool:
        return self.other <= tolerance.other_share * (2 * self.same + self.other)

    def __str__(self) -> str:
        if not self.same + self.other:
            return f"nothing to compare: no detection stands out on {self.images} images; give images with objects"
        return (
            f"{self.same} of {self.same + self.other} detections on {self.images} images are the same; largest "
            f"difference {self.max_box_difference_px:.2g} pixels, score {self.max_score_difference:.2g}"
        )


def agreement(
    pairs: Iterable[tuple[Detections, Detections]],
    score_threshold: float,
    most: int,
    tolerance: Tolerance = Tolerance(),
) -> Agreement:
    """Compare two detectors' detections, image by image."""
    images = same = other = 0
    box_differences, score_differences = [0.0], [0.0]
    for first, second in pairs:
        matches = _matches(first, second, tolerance)
        for one, two in matches:
            box_differences.append(float(np.abs(first.boxes_xyxy[one] - second.boxes_xyxy[two]).max()))
            score_differences.append(float(abs(first.scores[one] - second.scores[two])))
        other += _counted(first, [one for one, _ in matches], score_threshold, most, tolerance)
        other += _counted(second, [two for _, two in matches], score_threshold, most, tolerance)
        same += len(matches)
        images += 1
    return Agreement(images, same, other, max(box_differences), max(score_differences))


def _matches(first: Detections, second: Detections, tolerance: Tolerance) -> list[tuple[int, int]]:
    """Pairs of indices, each index once, the best overlap first."""
    overlap = iou(first.boxes_xyxy.astype(np.float64), second.boxes_xyxy.astype(np.float64))
    near = np.abs(first.scores[:, None] - second.scores[None, :]) <= tolerance.score
    possible = near & (first.labels[:, None] == second.labels[None, :]) & (overlap >= tolerance.iou)
    rows, columns = np.nonzero(possible)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for one, two in zip(rows[order].tolist(), columns[order].tolist()):
        if one not in pairs and two not in taken:
            pairs[one] = two
            taken.add(two)
    return list(pairs.items())


def _counted(
    detections: Detections, matched: Sequence[int], score_threshold: float, most: int, tolerance: Tolerance
) -> int:
    lowest = score_threshold
    if len(detections) >= most:
        lowest = max(lowest, float(detections.scores[-1]))
    alone = np.delete(detections.scores, matched)
    return int((alone > lowest + tolerance.score).sum())
