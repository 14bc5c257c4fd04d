"""A trained detector to one int8 file, measured, or refused where it lost too much."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tinydet.errors import InputError, MissingExtraError, TinydetError
from tinydet.evaluation import Protocol
from tinydet.export import export_detector
from tinydet.files import write_bytes
from tinydet.int8.calibration import Method, calibrate
from tinydet.int8.layers import WeightBits, quantizable, quantized
from tinydet.int8.sensitivity import Choice, Examples, LayerSensitivity, choose_layers, described
from tinydet.packed import PackedFile, pack, write_packed
from tinydet.packed.onnx_weights import split_onnx
from tinydet.records import Sample
from tinydet.runtime.description import ModelDescription
from tinydet.runtime.engines import Engine, OnnxRuntimeEngine, OpenVinoEngine
from tinydet.runtime.model_file import read_model

_KEPT_IN_SKELETON = 16  # elements, as in `tinydet export`
_TIMED_IMAGES, _ROUNDS = 4, 16


@dataclass(frozen=True)
class QuantizeConfig:
    """How a detector becomes int8.

    Attributes:
        calibration: how the range of each activation is found. Measured on a trained student the three differ by 0.005
            AP at most, which is noise; `minmax` is the fastest and holds least in memory.
        percentile: of 100, the part of all values that the method `percentile` keeps.
        weight_bits: 7 uses -64 to 64 of int8. Measured on a ResNet18-1-16 Faster R-CNN, AP is the same, the file 12 %
            smaller (0.275 of the float file, not 0.311), and processors without VNNI instructions cannot overflow.
        tolerance: AP may fall by this much; beyond, nothing is written.
        sensitivity_images: of the calibration images, on how many each layer is measured alone.
    """

    calibration: Method = "minmax"
    percentile: float = 99.99
    weight_bits: WeightBits = 7
    tolerance: float = 0.01
    sensitivity_images: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 1:
            raise ValueError(f"tolerance {self.tolerance}: expected a fall of AP from 0 to 1, such as 0.01")
        if not 50 < self.percentile <= 100 or self.sensitivity_images < 1:
            raise ValueError(f"percentile {self.percentile} (50 to 100), {self.sensitivity_images} images (at least 1)")


@dataclass(frozen=True)
class QuantizeReport:
    """What was written and what it costs.

    Attributes:
        float_bytes, int8_bytes: of the packed files, whatever the format of `path`.
        float_accuracy, int8_accuracy: on the test images, by `protocol`.
        choice: what was measured on the calibration images, and which layers stay float.
        latency_ms: by engine, the network alone on one thread, float and int8: lower quartiles of
            interleaved rounds.
    """

    path: Path
    float_bytes: int
    int8_bytes: int
    protocol: Protocol
    float_accuracy: float
    int8_accuracy: float
    test_images: int
    calibration_images: int
    choice: Choice
    latency_ms: dict[str, tuple[float, float]]

    @property
    def layers(self) -> tuple[LayerSensitivity, ...]:
        return self.choice.layers

    def as_plain(self) -> dict[str, Any]:
        """What JSON can hold."""
        latency = {name: {"float": pair[0], "int8": pair[1]} for name, pair in self.latency_ms.items()}
        return {**asdict(self), "path": str(self.path), "latency_ms": latency}


def quantize_detector(
    detector: Any,
    path: str | os.PathLike[str],
    calibration: Sequence[Sample],
    test: Sequence[Sample],
    config: QuantizeConfig = QuantizeConfig(),
    *,
    protocol: Protocol = "voc",
    float_accuracy: float | None = None,
    metrics: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    compression: Sequence[Any] = (),
    progress: Callable[[str, int, int], None] = lambda doing, done, total: None,
) -> QuantizeReport:
    """Write a detector as an int8 file, `.tinydet` or `.onnx`, after measuring it.

    Args:
        calibration: labelled images for ranges and sensitivity; of the training split, never of the test split.
        test: images that decide whether the file may be written.
        float_accuracy: what the int8 file is compared with; None: this detector's own. Of use after fine-tuning.
        metrics, run, compression: plain values that the file keeps.
        progress: told what is being done, how far it is, and of how much.

    Raises:
        TinydetError: accuracy on the test images falls by more than the tolerance; nothing is written.
        InputError: the path ends in neither, or there is no image.
    """
    target = Path(path)
    if target.suffix.lower() not in (".tinydet", ".onnx"):
        raise InputError(f"{target}: expected a name that ends in .tinydet or .onnx")
    if not calibration or not test:
        raise InputError("quantizing needs images to calibrate on and images to test on")
    progress("exporting", 0, 1)
    model, description = _exported(detector, calibration, metrics or {}, run or {}, compression)
    source = quantizable(model)
    examples = Examples(calibration, description, protocol)
    progress("calibrating", 0, 1)
    ranges = calibrate(source.model, examples.pixels, config.calibration, config.percentile)
    choice = choose_layers(
        source, ranges, examples, config.tolerance / 2, config.weight_bits, config.sensitivity_images, progress
    )
    chosen = quantized(source, ranges, choice.kept_in_float, config.weight_bits)
    progress("testing", 0, 1)
    tested = Examples(test, description, protocol)
    if float_accuracy is None:
        float_accuracy = tested.accuracy(model)
    result = tested.evaluate(tested.detect(chosen))
    int8_accuracy = result.primary if np.isfinite(result.primary) else 0.0
    if float_accuracy - int8_accuracy > config.tolerance:
        raise TinydetError(_refusal(target, float_accuracy, int8_accuracy, choice, config, len(test), len(calibration)))
    entry = {
        **_settings(config, len(calibration), choice),
        "protocol": protocol,
        "float_accuracy": round(float_accuracy, 5),
        "int8_accuracy": round(int8_accuracy, 5),
    }
    said = replace(
        description,
        metrics={**description.metrics, **result.as_json()["metrics"]},
        compression=[*description.compression, entry],
    )
    packed = _packed(chosen, said)
    float_bytes, int8_bytes = len(pack(_packed(model, description))), len(pack(packed))
    progress("timing", 0, 1)
    latency = latency_side_by_side([model, chosen], tested.pixels[:_TIMED_IMAGES])
    if target.suffix.lower() == ".onnx":
        write_bytes(target, described(chosen, said))
    else:
        write_packed(target, packed)
    return QuantizeReport(
        path=target,
        float_bytes=float_bytes,
        int8_bytes=int8_bytes,
        protocol=protocol,
        float_accuracy=float_accuracy,
        int8_accuracy=int8_accuracy,
        test_images=len(test),
        calibration_images=len(calibration),
        choice=choice,
        latency_ms={name: (times[0], times[1]) for name, times in latency.items()},
    )


def _settings(config: QuantizeConfig, calibration_images: int, choice: Choice) -> dict[str, Any]:
    """How the file came to be, for the list of compressions that it keeps."""
    return {
        "step": "int8",
        "weight_bits": config.weight_bits,
        "calibration": config.calibration,
        "calibration_images": calibration_images,
        "kept_in_float": list(choice.kept_in_float),
    }


def latency_side_by_side(
    models: Sequence[onnx.ModelProto], images: Sequence[NDArray[np.uint8]], rounds: int = _ROUNDS
) -> dict[str, list[float]]:
    """Milliseconds an image for each model, the network alone on one thread, by engine installed here.

    Every round runs each model on each image, in turns the first or the last first, so that whatever else the machine
    does falls on all alike. The lower quartile is given: other work only ever adds time.
    """
    found = {}
    for make in (OnnxRuntimeEngine, OpenVinoEngine):
        try:
            engines: list[Engine] = [make(model.SerializeToString(), threads=1) for model in models]
        except MissingExtraError:
            continue
        times: list[list[float]] = [[] for _ in engines]
        for round_ in range(rounds + 1):
            for pixels in images:
                for engine, own in list(zip(engines, times))[:: 1 if round_ % 2 else -1]:
                    started = time.perf_counter()
                    engine(pixels)
                    if round_:  # the first is to warm up
                        own.append(1000 * (time.perf_counter() - started))
        found[engines[0].name] = [float(np.percentile(own, 25)) for own in times]
    return found


def _exported(
    detector: Any,
    samples: Sequence[Sample],
    metrics: Mapping[str, Any],
    run: Mapping[str, Any],
    compression: Sequence[Any],
) -> tuple[onnx.ModelProto, ModelDescription]:
    """The float graph, proven to detect what the detector does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        export_detector(detector, path, "onnx", samples=samples[:4], metrics=metrics, run=run, compression=compression)
        return onnx.load(path), read_model(path).description


def _packed(model: onnx.ModelProto, description: ModelDescription) -> PackedFile:
    skeleton, tensors = split_onnx(model.SerializeToString(), shorten=True, keep_elements=_KEPT_IN_SKELETON)
    return PackedFile(skeleton, tensors, description.as_plain())


def _refusal(
    path: Path,
    float_accuracy: float,
    int8_accuracy: float,
    choice: Choice,
    config: QuantizeConfig,
    test_images: int,
    calibration_images: int,
) -> str:
    worst = ", ".join(f"{row.layer} ({row.change:.3f})" for row in choice.layers[:3])
    kept = ", ".join(choice.kept_in_float) or "none"
    bits = "use --weight-bits 8; " if config.weight_bits == 7 else ""
    return (
        f"{path} was not written: in int8, AP falls from {float_accuracy:.4f} to {int8_accuracy:.4f} on {test_images} "
        f"images, by {float_accuracy - int8_accuracy:.4f}; tolerated is {config.tolerance:g}. Kept in float: {kept}; "
        f"the layers that int8 changes most: {worst}. Fine-tune with --aware 500 or more; calibrate on more than "
        f"{calibration_images} images (--calibration-images) or by another --calibration than "
        f"{config.calibration}; {bits}or allow more with --tolerance"
    )
