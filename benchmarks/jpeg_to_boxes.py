"""From a JPEG file to boxes on one thread: ResNet18-1-16 Faster R-CNN, shorter side 600, 6,000 / 300 proposals.

Five routes in one interleaved run, so that whatever else the machine does falls on all alike: eager PyTorch with
torchvision's transform; the exported file with the default install (onnxruntime and Pillow alone), with OpenCV and
simplejpeg beside it, and on OpenVINO; and the full ResNet18 in eager PyTorch. Weights are random, but such that all 300
regions are found and the lists of detections are full.

    OMP_NUM_THREADS=1 python benchmarks/jpeg_to_boxes.py IMAGE_FOLDER [--rounds 30] [--json FILE] [--profile]

On a machine that others use at the same time, `--clock cpu` measures the processor time of this process.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.functional import to_tensor

from tinydet.backbones import ResNetConfig
from tinydet.benchmark import machine_plain
from tinydet.data.batch import Batch
from tinydet.detectors import FasterRCNN, FasterRCNNConfig
from tinydet.export.network import build_onnx, describe
from tinydet.runtime import Detector, decode, decoding, resizing
from tinydet.runtime import detector as detector_module
from tinydet.runtime.sources import images_in

CLASSES = tuple(f"class {number}" for number in range(20))
STAGES = ("decode", "preprocess", "network", "postprocess")
clock = time.perf_counter
_UNTIL_SETTLED = 20  # images of a size, after which OpenVINO has a graph for that size
Route = Callable[[bytes], tuple[list[float], int]]


def network(width_divisor: float) -> FasterRCNN:
    torch.manual_seed(0)
    detector = FasterRCNN(FasterRCNNConfig(CLASSES, ResNetConfig(18, width_divisor))).eval()
    detector.heads.class_scores.weight.data *= 30
    return detector


def eager(detector: FasterRCNN) -> Route:
    """What a user of torchvision writes: Pillow, `to_tensor`, `GeneralizedRCNNTransform`, the network."""
    image_config = detector.config.preprocessing
    mean, std = ([value / 255 for value in values] for values in (image_config.mean, image_config.std))
    transform = GeneralizedRCNNTransform(
        image_config.shorter_side, image_config.longer_side, mean, std, size_divisible=1
    ).eval()
    # The transform normalises; the detector would again.
    object.__setattr__(image_config, "mean", (0.0,) * 3)
    object.__setattr__(image_config, "std", (1.0,) * 3)

    @torch.no_grad()
    def route(content: bytes) -> tuple[list[float], int]:
        marks = [clock()]
        image = to_tensor(Image.open(io.BytesIO(content)).convert("RGB"))
        marks.append(clock())
        images, _ = transform([image])
        marks.append(clock())
        size_hw = images.image_sizes[0]
        outputs = detector(Batch(images.tensors, (size_hw,), (size_hw,), (), ("",), ("",)))
        marks.append(clock())
        (found,) = detector.postprocess(outputs)
        scale = torch.tensor([image.shape[2] / size_hw[1], image.shape[1] / size_hw[0]] * 2)
        boxes = found.boxes_xyxy * scale
        marks.append(clock())
        return _steps(marks), len(boxes)

    return route


def exported(detector: Detector, plain: bool) -> Route:
    """The runtime; `plain` without OpenCV and simplejpeg, as after `pip install tinydet`."""

    def route(content: bytes) -> tuple[list[float], int]:
        with mock.patch.object(decoding, "_simplejpeg", return_value=None) if plain else mock.MagicMock():
            marks = [clock()]
            pixels = decode(content)
            marks.append(clock())
        prepared = detector.prepare(pixels)
        marks.append(clock())
        raw = detector.run(prepared)
        marks.append(clock())
        found = detector.finish(raw, pixels)
        marks.append(clock())
        return _steps(marks), len(found)

    return route


def _steps(marks: list[float]) -> list[float]:
    return [1000 * (after - before) for before, after in pairwise(marks)]


def routes(model: bytes, student: FasterRCNN, teacher: FasterRCNN) -> dict[str, Route]:
    assert resizing.has_opencv(), "this benchmark compares with OpenCV: pip install opencv-python-headless"
    with mock.patch.object(detector_module, "has_opencv", return_value=False):
        alone = Detector(model, "onnxruntime", 1)
    return {
        "eager": eager(student),
        "default install": exported(alone, plain=True),
        "onnxruntime, OpenCV": exported(Detector(model, "onnxruntime", 1), plain=False),
        "openvino, OpenCV": exported(Detector(model, "openvino", 1), plain=False),
        "full ResNet18, eager": eager(teacher),
    }


def measure(all_routes: dict[str, Route], contents: list[bytes], rounds: int) -> dict[str, Any]:
    steps: dict[str, list[list[float]]] = defaultdict(list)
    counts: dict[str, int] = defaultdict(int)
    for round_number in range(rounds + 2):
        for content in contents:
            for name, route in all_routes.items():
                if name.startswith("full") and round_number % 10:  # seconds each
                    continue
                own, count = route(content)
                if round_number >= 2 or name.startswith("full"):
                    steps[name].append(own)
                    counts[name] = count
    figures = {}
    for name, own in steps.items():
        totals = [sum(step) for step in own]
        low, _, high = quantiles(totals, n=4, method="inclusive") if len(totals) > 1 else (totals[0],) * 3
        figures[name] = {
            "total_ms": median(totals),
            "quartiles_ms": [low, high],
            "fastest_ms": min(totals),
            "detections": counts[name],
            **{f"{stage}_ms": median(column) for stage, column in zip(STAGES, zip(*own))},
        }
    return figures


def profile(model: bytes, pixels: np.ndarray, runs: int = 40) -> dict[str, float]:
    """Milliseconds by kind of node, the fastest of each node's runs added up."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling, options.log_severity_level = 1, True, 3
    options.profile_file_prefix = str(Path(tempfile.gettempdir()) / "jpeg_to_boxes")
    session = onnxruntime.InferenceSession(model, options)
    for _ in range(runs):
        session.run(None, {"image": pixels[None]})
    file = Path(session.end_profiling())
    fastest: dict[tuple[str, str], float] = {}
    for event in json.loads(file.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            key = event["args"]["op_name"], event["name"]
            fastest[key] = min(fastest.get(key, 1e9), event["dur"] / 1000)
    file.unlink()
    kinds: dict[str, float] = defaultdict(float)
    for (kind, _), milliseconds in fastest.items():
        kinds[kind] += milliseconds
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--count", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine that others use too"
    )
    arguments = parser.parse_args()
    global clock
    if arguments.clock == "cpu":
        clock = time.process_time
    torch.set_num_threads(1)
    contents = [path.read_bytes() for path in images_in(arguments.images)[: arguments.count]]
    student, teacher = network(16), network(1)
    description = describe(student, {}, {}, ())
    model = build_onnx(student, description).SerializeToString()
    ways = routes(model, student, teacher)
    for content in contents * _UNTIL_SETTLED:
        ways["openvino, OpenCV"](content)
    figures = measure(ways, contents, arguments.rounds)
    eager_ms, full_ms = figures["eager"]["total_ms"], figures["full ResNet18, eager"]["total_ms"]
    for name, own in figures.items():
        own["times_faster_than_eager"] = eager_ms / own["total_ms"]
        own["times_faster_than_full"] = full_ms / own["total_ms"]
        own["around_the_network"] = 1 - own["network_ms"] / own["total_ms"]
        stages = ", ".join(f"{stage} {own[f'{stage}_ms']:.2f}" for stage in STAGES)
        print(
            f"{name:22} {own['total_ms']:8.2f} ms ({own['quartiles_ms'][0]:.2f} to {own['quartiles_ms'][1]:.2f}, least "
            f"{own['fastest_ms']:.2f}): {stages}; {own['times_faster_than_eager']:.1f}x eager, "
            f"{own['times_faster_than_full']:.1f}x the full one; {own['detections']} detections"
        )
    result = {**machine_plain(), "clock": arguments.clock, "routes": figures}
    if arguments.profile:
        pixels = description.preprocessing(Image.open(io.BytesIO(contents[0])))
        result["profile_ms"] = profile(model, np.ascontiguousarray(pixels))
        for kind, milliseconds in result["profile_ms"].items():
            if milliseconds >= 0.05:
                print(f"  {kind:20} {milliseconds:.2f} ms")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
