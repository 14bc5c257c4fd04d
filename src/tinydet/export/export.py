"""`export_detector`: build the graph, prove it on real images, write the file."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from tinydet.data.batch import Batch
from tinydet.detectors.ssd import SSD
from tinydet.errors import InputError, TinydetError
from tinydet.export.agreement import Agreement, Tolerance, agreement
from tinydet.export.network import build_onnx, describe
from tinydet.files import write_bytes
from tinydet.packed import PackedFile, write_packed
from tinydet.packed.onnx_weights import join_onnx, split_onnx
from tinydet.preprocessing import Preprocessing
from tinydet.records import Detections, Sample, open_image
from tinydet.runtime.description import ModelDescription
from tinydet.runtime.engines import Engine, OnnxRuntimeEngine

ExportFormat = Literal["onnx", "packed"]
Picture = Sample | Image.Image | str | os.PathLike[str]
_KEPT_IN_SKELETON = 16  # elements; shapes and axes compress better among the nodes that use them


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        onnx_bytes: of the ONNX model; of the file itself where the format is `onnx`.
        file_bytes: on disk.
        agreement: with the torch detector, on the images given.
    """

    path: Path
    format: ExportFormat
    parameters: int
    onnx_bytes: int
    file_bytes: int
    agreement: Agreement

    def as_plain(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {**asdict(self), "path": str(self.path)}

    def __str__(self) -> str:
        return f"{self.path}: {self.file_bytes:,} bytes, {self.parameters:,} parameters; {self.agreement}"


def export_detector(
    detector: Any,
    path: str | os.PathLike[str],
    format: ExportFormat = "onnx",
    *,
    samples: Iterable[Picture] | None = None,
    metrics: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    compression: Sequence[Any] = (),
    tolerance: Tolerance = Tolerance(),  # noqa: B008  a frozen value
) -> ExportReport:
    """Write a detector as one file, after proving that it detects the same.

    Args:
        detector: a torch detector of `tinydet.detectors`.
        samples: real images to prove it on; None takes two photographs that scikit-learn brings.
        metrics, run, compression: plain values that the file keeps: what was measured, how it was trained, what was
            done to its weights.

    Raises:
        TinydetError: the exported graph does not detect the same; the message has the numbers, and nothing is written.
        InputError: no image was given, or one cannot be read.
    """
    description = describe(detector, metrics or {}, run or {}, compression)
    model = build_onnx(detector, description).SerializeToString()
    packed = _packed(model, description) if format == "packed" else None
    ready = model if packed is None else join_onnx(packed.graph or b"", packed.tensors)
    found = _agreement(detector, OnnxRuntimeEngine(ready, threads=1), description, samples, tolerance)
    if not found.within(tolerance):
        raise TinydetError(
            f"{path} was not written: the exported graph does not detect what the torch detector does: {found}. The "
            f"same means one label, IoU at least {tolerance.iou} and scores within {tolerance.score}; at most "
            f"{tolerance.other_share:.0%} may differ"
        )
    if packed is None:
        write_bytes(path, model)
    else:
        write_packed(path, packed)
    size = Path(path).stat().st_size
    return ExportReport(Path(path), format, description.parameters, len(model), size, found)


def _packed(model: bytes, description: ModelDescription) -> PackedFile:
    skeleton, tensors = split_onnx(model, shorten=True, keep_elements=_KEPT_IN_SKELETON)
    return PackedFile(skeleton, tensors, description.as_plain())


def _agreement(
    detector: Any,
    engine: Engine,
    description: ModelDescription,
    samples: Iterable[Picture] | None,
    tolerance: Tolerance,
) -> Agreement:
    images = [_opened(sample) for sample in (_photographs() if samples is None else samples)]
    if not images:
        raise InputError("export needs at least one image to prove the file on")
    was_training = detector.training
    device = next(detector.parameters()).device
    detector.eval().cpu()
    try:
        pairs = [_both(detector, engine, image, description.preprocessing) for image in images]
        threshold = description.score_threshold
        if not any(len(first) or len(second) for first, second in pairs):  # which would prove nothing
            lenient, threshold = _without_threshold(detector), 0.0
            engine = OnnxRuntimeEngine(build_onnx(lenient, description).SerializeToString(), threads=1)
            pairs = [_both(lenient, engine, image, description.preprocessing) for image in images]
    finally:
        detector.train(was_training).to(device)
    return agreement(pairs, threshold, description.most, tolerance)


def _without_threshold(detector: Any) -> Any:
    """A copy of a detector that keeps its best detections, however unlikely."""
    lenient = copy.deepcopy(detector)
    config = detector.config
    if isinstance(detector, SSD):
        lenient.config = replace(config, score_threshold=0.0)
    else:
        lenient.config = replace(config, regions=replace(config.regions, score_threshold=0.0))
    return lenient


@torch.no_grad()
def _both(
    detector: Any, engine: Engine, image: Image.Image, preprocessing: Preprocessing
) -> tuple[Detections, Detections]:
    """What torch and the exported graph find in the same pixels."""
    pixels = preprocessing(image)
    height, width = pixels.shape[:2]
    batch = Batch(
        images=torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float(),
        sizes_hw=((height, width),),
        original_sizes_hw=((image.height, image.width),),
        targets=(),
        image_ids=("",),
        view_ids=("",),
    )
    (found,) = detector.postprocess(detector(batch))
    expected = Detections(found.boxes_xyxy.numpy(), found.scores.numpy(), found.labels.numpy())
    return expected, Detections(*engine(pixels))


def _opened(picture: Picture) -> Image.Image:
    match picture:
        case Sample():
            return picture.open_image()
        case Image.Image():
            return picture.convert("RGB")
        case _:
            return open_image(Path(picture))


def _photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]
