"""How far the runtime's fast ways of enlarging an image are from Pillow's, which training and `evaluate` use.

    python benchmarks/resizing.py MODEL --data DATA [--split test] [--shrink 4] [--json FILE]

MODEL is an .onnx or .tinydet file. The graph's own Resize (the default install) and OpenCV (the `fast` extra) are each
compared with Pillow: values of 0..255 that enter the network, detections, and accuracy. Pillow shrinks what is larger
than the network's input in any case; `--shrink` makes images smaller first, so that there is something to enlarge.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from tinydet.benchmark import machine_plain
from tinydet.datasets import open_dataset
from tinydet.evaluation import evaluate
from tinydet.export.agreement import Tolerance, agreement
from tinydet.preprocessing import Preprocessing
from tinydet.records import Annotations, Detections, Sample
from tinydet.runtime import Detector, ModelDescription, read_model
from tinydet.runtime import detector as detector_module
from tinydet.runtime.resizing import SIZE, enlarges, prepare, prepare_exactly, with_resize

MATCHED = Tolerance(iou=0.9, score=0.1, other_share=1.0)
"""What counts as the same detection, so that its differences can be looked at."""


class GraphResize:
    """What a graph that enlarges by itself computes for an image, up to the place where the network begins."""

    def __init__(self, model: bytes, preprocessing: Preprocessing) -> None:
        import onnxruntime

        changed = onnx.load_from_string(with_resize(model))
        graph = changed.graph
        (place,) = [index for index, node in enumerate(graph.node) if node.name == "resize"]
        del graph.node[place + 1 :]
        del graph.output[:]
        graph.output.append(
            onnx.helper.make_tensor_value_info(graph.node[place].output[0], onnx.TensorProto.FLOAT, None)
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # it would warn of each weight that nothing uses now
        model = changed.SerializeToString()
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._preprocessing = preprocessing

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """`[H, W, 3]` to `[h, w, 3]` in 0..255, not rounded."""
        height, width = self._preprocessing.resized_hw((pixels.shape[0], pixels.shape[1]))
        size = np.array([1, pixels.shape[2], height, width])
        (found,) = self._session.run(None, {"image": pixels[None], SIZE: size})
        return found[0].transpose(1, 2, 0) + np.array(self._preprocessing.mean, np.float32)


def shrunk(sample: Sample, by: float) -> Sample:
    """The sample with its image by Pillow at a fraction of its size."""
    image = sample.open_image()
    width, height = max(1, round(image.width / by)), max(1, round(image.height / by))
    small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    own = sample.annotations
    scale = np.array([width / image.width, height / image.height] * 2, np.float32)
    scaled = Annotations(own.boxes_xyxy * scale, own.labels, own.difficult, own.crowd)
    return replace(sample, image=small, size_hw=(height, width), annotations=scaled)


def pixel_differences(
    images: list[NDArray[np.uint8]], model: bytes, preprocessing: Preprocessing
) -> dict[str, dict[str, float]]:
    """Levels of 255 between each way and Pillow: the largest, the mean, and the share of values off by one or more."""
    in_graph = GraphResize(model, preprocessing)
    ways: dict[str, Any] = {
        "graph": in_graph,
        "opencv": lambda pixels: prepare(pixels, preprocessing).astype(np.float32),
    }
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in ways}
    for pixels in images:
        exact = prepare_exactly(pixels, preprocessing).astype(np.float32)
        for name, way in ways.items():
            found[name].append(np.abs(way(pixels) - exact).ravel())
    joined = {name: np.concatenate(own) for name, own in found.items()}
    return {
        name: {"max": float(own.max()), "mean": float(own.mean()), "share_of_one_or_more": float((own > 0.999).mean())}
        for name, own in joined.items()
    }


def detection_differences(
    ways: dict[str, Detector], samples: list[Sample], about: ModelDescription, classes: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Detections]] = {name: {} for name in ways}
    for sample in samples:
        pixels = np.asarray(sample.open_image())
        for name, detector in ways.items():
            found[name][sample.image_id] = detector(pixels)
    result: dict[str, dict[str, Any]] = {}
    for name, own in found.items():
        pairs = [(found["pillow"][key], detections) for key, detections in own.items()]
        same = agreement(pairs, about.score_threshold, about.most, MATCHED)
        strict = agreement(pairs, about.score_threshold, about.most)
        accuracy = evaluate(samples, own, classes, "voc").metrics["mAP"]
        result[name] = {
            "detections": sum(map(len, own.values())),
            "without_partner": same.other,
            "detections_above_0.6": int(sum((one.scores > 0.6).sum() for one in own.values())),
            "without_partner_above_0.6": agreement(pairs, 0.5, about.most, MATCHED).other,
            "max_box_difference_px": same.max_box_difference_px,
            "max_score_difference": same.max_score_difference,
            "share_within_export_tolerance": 2 * strict.same / max(1, 2 * strict.same + strict.other),
            "mAP": accuracy,
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--shrink", type=float, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    file = read_model(arguments.model)
    dataset = open_dataset(arguments.data)
    samples = [shrunk(sample, arguments.shrink) for sample in dataset.split(arguments.split)]
    images = [np.asarray(sample.open_image()) for sample in samples]
    preprocessing = file.description.preprocessing
    enlarged = sum(enlarges(image, preprocessing.resized_hw(image.shape[:2])) for image in images)
    print(f"{len(images)} images, {enlarged} of them enlarged")
    pixels = pixel_differences(images, file.onnx, preprocessing)
    for name, own in pixels.items():
        print(f"  {name}: at most {own['max']:.3f} of 255 levels, mean {own['mean']:.4f}")
    with mock.patch.object(detector_module, "has_opencv", return_value=False):
        alone = Detector(arguments.model, "onnxruntime", 1)
    ways = {
        "pillow": Detector(arguments.model, "onnxruntime", 1, resizing="exact"),
        "graph": alone,
        "opencv": Detector(arguments.model, "onnxruntime", 1),
    }
    detections = detection_differences(ways, samples, file.description, dataset.classes)
    for name, own in detections.items():
        print(f"  {name}: {own}")
    if arguments.json:
        result = {**machine_plain(), "images": len(images), "enlarged": enlarged}
        arguments.json.write_text(json.dumps({**result, "pixels": pixels, "detections": detections}, indent=2) + "\n")


if __name__ == "__main__":
    main()
