"""The ranges that activations have on real images."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

from tinydet.errors import InputError
from tinydet.int8.layers import ACTIVATIONS, WEIGHTED

Method = Literal["minmax", "percentile", "entropy"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")
_KINDS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}


def calibrate(
    model: onnx.ModelProto, images: Iterable[NDArray[np.uint8]], method: Method = "minmax", percentile: float = 99.99
) -> Any:
    """The range of every activation that may be quantized, as `onnxruntime.quantization` takes them.

    Args:
        model: of `tinydet.int8.layers.quantizable`.
        images: `[H, W, C]` each, resized; one at a time is held.
        method: `minmax` takes the extremes; `percentile` leaves out the rarest values; `entropy` chooses the range
            whose histogram loses the least information (Kullback-Leibler).
        percentile: of 100, the part of all values that `percentile` keeps.

    Raises:
        InputError: there is no image.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "float.onnx"
        onnx.save(model, plain)
        calibrator: Any = create_calibrator(
            str(plain),
            [*WEIGHTED, *ACTIVATIONS],
            augmented_model_path=str(Path(folder) / "calibrated.onnx"),
            calibrate_method=_KINDS[method],
            extra_options={"symmetric": False, **({"percentile": percentile} if method == "percentile" else {})},
        )
        count = 0
        for image in images:
            with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for each
                calibrator.collect_data(_One(image))
            count += 1
        if not count:
            raise InputError("calibration needs at least one image")
        with contextlib.redirect_stdout(io.StringIO()):
            return calibrator.compute_data()


class _One(CalibrationDataReader):
    """A single image: the calibrators hold all activations of what one reader gives."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self._waiting = [{"image": image[None]}]

    def get_next(self) -> Any:
        return self._waiting.pop() if self._waiting else None
