"""What a model file says of itself: everything about a detector that is not its graph or its weights.

It is one JSON object: the metadata of a packed file, and under the key `tinydet` in the metadata of an ONNX file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tinydet.config import from_plain, to_plain
from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing

FORMAT = 1
METADATA_KEY = "tinydet"


@dataclass(frozen=True)
class ModelDescription:
    """A detector in a file.

    Attributes:
        detector: its kind, such as `FasterRCNN`.
        score_threshold, nms_iou, most: how the graph itself chooses its detections.
        parameters: numbers that were learned.
        opset: of ONNX.
        multiply_adds: of one image of `input_hw`, with `regions` regions of interest where the detector has any; 0:
            nobody counted them.
        config: the detector's whole configuration as plain values.
        metrics: what was measured of these weights.
        run: how they were trained.
        compression: what was done to the weights since, step by step.
        tinydet: the version that wrote the file.
    """

    detector: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    score_threshold: float
    nms_iou: float
    most: int
    parameters: int
    opset: int
    multiply_adds: int = 0
    input_hw: tuple[int, int] = (0, 0)
    regions: int | None = None
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    compression: list[Any] = field(default_factory=list)
    tinydet: str = ""

    def as_plain(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {"format": FORMAT, **{f.name: to_plain(getattr(self, f.name)) for f in dataclasses.fields(self)}}


def read_description(plain: Any, where: str) -> ModelDescription:
    """The inverse of `as_plain`.

    Args:
        where: the file, for messages.

    Raises:
        InputError: it is of a newer format, or not a description.
    """
    found = plain.get("format") if isinstance(plain, Mapping) else None
    if not isinstance(found, int):
        raise InputError(
            f"{where}: does not say what detector it is; tinydet runs the files that `tinydet export` writes, whose "
            f"metadata describe classes and preprocessing"
        )
    if found > FORMAT:
        raise InputError(f"{where}: description of format {found}; this tinydet reads up to {FORMAT}: upgrade tinydet")
    known = {f.name for f in dataclasses.fields(ModelDescription)}
    free = {"config", "metrics", "run", "compression"}
    checked = {name: value for name, value in plain.items() if name in known - free}
    description = from_plain(ModelDescription, checked, where)
    return dataclasses.replace(description, **{name: plain[name] for name in free if name in plain})
