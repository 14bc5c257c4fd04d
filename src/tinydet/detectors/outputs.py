"""What every detector returns. Whatever is to be mimicked, distilled or exported is a field here, never a hook.

A detector is an `nn.Module` with
    `detector(batch) -> DetectorOutputs`, the network; with `training` on, two-stage detectors also sample regions,
    `detector.criterion(outputs, batch.targets) -> dict[str, Tensor]`, the losses by name, and
    `detector.postprocess(outputs) -> list[DetectedTensors]`, boxes in the pixels of the resized image,
and with `config`, `blocks()` and `feature_shapes` as `Detector` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from tinydet.data.batch import Batch, Target


@dataclass(frozen=True)
class DensePredictions:
    """Predictions at every anchor (the proposal network's, or a one-stage detector's).

    Attributes:
        logits: `[B, A, K]`; K is 1 for a proposal network (object or not), classes + 1 for SSD (background first).
        deltas: `[B, A, 4]` box offsets from the anchors.
        anchors_xyxy: `[A, 4]`, the same for every image of the batch.
        weights: what the deltas are scaled by, x, y, w, h: the inverse of SSD's variances.
    """

    logits: Tensor
    deltas: Tensor
    anchors_xyxy: Tensor
    weights: tuple[float, float, float, float]


@dataclass(frozen=True)
class RegionTargets:
    """What each sampled region should be, known in training only.

    Attributes:
        labels: `[R]` int64; 0 is background, class c is c + 1, -1 is not counted.
        deltas: `[R, 4]` the offsets wanted, for regions that are an object.
    """

    labels: Tensor
    deltas: Tensor


@dataclass(frozen=True)
class RegionPredictions:
    """The second stage's predictions for regions of interest.

    Attributes:
        boxes_xyxy: one `[R_i, 4]` an image; the regions, in the pixels of the resized image.
        logits: `[R, classes + 1]`, R the sum of R_i, background first.
        deltas: `[R, 4]` where boxes are class-agnostic, else `[R, classes, 4]`.
        targets: set in training only.
    """

    boxes_xyxy: list[Tensor]
    logits: Tensor
    deltas: Tensor
    targets: RegionTargets | None = None


@dataclass(frozen=True)
class DetectorOutputs:
    """All that one forward pass yields.

    Attributes:
        features: the maps that detection works on, after the quantizer where there is one: `[B, C_l, H_l, W_l]` each.
        unquantized_features: the same maps before it; what mimic losses take (Wei et al. 2018, Eq. 6).
        strides: input pixels per cell of each map.
        sizes_hw: of each image within the batch.
        dense: predictions at every anchor.
        proposals_xyxy: one `[P_i, 4]` an image, best first and without gradient; None for one-stage detectors.
        regions: the second stage; None for one-stage detectors.
    """

    features: tuple[Tensor, ...]
    unquantized_features: tuple[Tensor, ...]
    strides: tuple[int, ...]
    sizes_hw: tuple[tuple[int, int], ...]
    dense: DensePredictions
    proposals_xyxy: list[Tensor] | None = None
    regions: RegionPredictions | None = None


@dataclass(frozen=True)
class RegionsOfInterest:
    """What mimicking needs of a detector: its maps, and where in them an object may be.

    Attributes:
        features: the maps before the quantizer, `[B, C_l, H_l, W_l]` each.
        strides: input pixels per cell of each map.
        boxes_xyxy: one `[P_i, 4]` an image, best first and without gradient.
    """

    features: tuple[Tensor, ...]
    strides: tuple[int, ...]
    boxes_xyxy: list[Tensor]


@dataclass(frozen=True)
class DetectedTensors:
    """Detections of one image as tensors: `[N, 4]` pixels of the resized image, `[N]` scores, `[N]` labels from 0."""

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor


class Criterion(Protocol):
    def __call__(self, outputs: DetectorOutputs, targets: tuple[Target, ...]) -> dict[str, Tensor]: ...


class Postprocess(Protocol):
    def __call__(self, outputs: DetectorOutputs) -> list[DetectedTensors]: ...


@runtime_checkable
class Detector(Protocol):
    """What teaching, compression, training and export need of a detector."""

    criterion: Criterion
    postprocess: Postprocess
    feature_channels: tuple[int, ...]
    feature_strides: tuple[int, ...]

    @property
    def config(self) -> Any:
        """The frozen dataclass that defines the network; every one has `classes`, `preprocessing` and `quantizer`."""
        ...

    def __call__(self, batch: Batch) -> DetectorOutputs: ...

    def features(self, batch: Batch) -> tuple[Tensor, ...]:
        """The maps before the quantizer alone."""
        ...

    def regions_of_interest(self, batch: Batch, count: int) -> RegionsOfInterest:
        """The maps and at most `count` regions an image, without running what comes after."""
        ...

    def blocks(self) -> dict[str, nn.Module]:
        """The parts that are pruned and counted apart: `backbone`, `proposals` (two-stage only) and `heads`."""
        ...
