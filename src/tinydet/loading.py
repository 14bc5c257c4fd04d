"""A detector from whatever holds one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tinydet.errors import MissingExtraError
from tinydet.records import Detections
from tinydet.runtime import Detector, EngineName, ImageLike, ModelDescription

if TYPE_CHECKING:
    from tinydet.export.eager import EagerDetector


class AnyDetector(Protocol):
    """What evaluation, benchmark and the command line need of a detector."""

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def engine(self) -> str: ...
    @property
    def description(self) -> ModelDescription: ...
    def __call__(self, image: ImageLike, /) -> Detections: ...


def detector_for(
    path: str | os.PathLike[str],
    engine: EngineName = "auto",
    threads: int | None = None,
    device: str = "cpu",
    resizing: str = "fast",
) -> Detector | EagerDetector:
    """The detector in an `.onnx` or `.tinydet` file, or in a checkpoint folder, which needs PyTorch.

    Raises:
        InputError: nothing there, damaged, or no detector.
        MissingExtraError: a checkpoint folder, and PyTorch is not installed.
    """
    if not Path(path).is_dir():
        return Detector(path, engine, threads, resizing="exact" if resizing == "exact" else "fast")
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("a checkpoint", "train") from error
    from tinydet.export.eager import load_eager
    from tinydet.training.engine import choose_device

    if threads is not None:
        torch.set_num_threads(threads)
    return load_eager(path, choose_device(device))
