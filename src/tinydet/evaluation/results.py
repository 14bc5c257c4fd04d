"""What an evaluation yields, whatever the protocol."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Protocol = Literal["voc07", "voc", "coco", "wider"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

_PRIMARY: dict[Protocol, str] = {"voc07": "mAP", "voc": "mAP", "coco": "AP", "wider": "hard"}


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision and recall as the score threshold goes down; recall ascends.

    Attributes:
        precision: `[D]` float64 in 0..1.
        recall: `[D]` float64 in 0..1.
        scores: `[D]` float64, the threshold of each point.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """How good detections are.

    Attributes:
        metrics: fractions of 1, NaN where nothing was there to be found. `mAP` for `voc07` and `voc`; the twelve of
            COCO and `mAP@0.5` for `coco`; `easy`, `medium` and `hard` for `wider`.
        per_class: AP by class name (over IoU 0.5 to 0.95 for `coco`), NaN for a class without ground truth.
        curves: by class name for the VOC rules, by subset for `wider`; empty for `coco`.
        objects: how many there were to be found, by class name or subset.
    """

    protocol: Protocol
    metrics: dict[str, float]
    per_class: dict[str, float]
    curves: dict[str, PrecisionRecall] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)

    @property
    def primary(self) -> float:
        """The one number by which checkpoints are compared."""
        return self.metrics[_PRIMARY[self.protocol]]

    def as_json(self) -> dict[str, Any]:
        """Plain values ready for JSON, without the curves; None in place of NaN."""
        return {
            "protocol": self.protocol,
            "metrics": _without_nan(self.metrics),
            "per_class": _without_nan(self.per_class),
            "objects": dict(self.objects),
        }


def _without_nan(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else float(value) for name, value in values.items()}
