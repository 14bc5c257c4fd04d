"""The columns of a table beside accuracy: parameters, multiply-adds, bytes of the shipped file, milliseconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL.Image import Image

from tinydet.complexity import measure_complexity
from tinydet.export import export_detector
from tinydet.records import Sample
from tinydet.report.summary import BlockFigures
from tinydet.runtime import Detector
from tinydet.training.checkpoint import load_checkpoint

_PROOF_IMAGES = 4
_ROUNDS = 20  # of timing, over all pictures
_ENOUGH_SECONDS = 3.0  # of timing, for each network, once every picture was shown
_LONGEST_SECONDS = 30.0  # of timing, for each network


@dataclass(frozen=True)
class VariantFigures:
    """Attributes:
    input_hw: of the network's input for the first test image, for which multiply-adds are counted.
    bytes_on_disk: of the packed file.
    """

    parameters: int
    multiply_adds: int
    input_hw: tuple[int, int]
    bytes_on_disk: int
    blocks: dict[str, BlockFigures] = field(default_factory=dict)


def variant_figures(
    folder: Path,
    samples: Sequence[Sample],
    packed: Path,
    input_hw: tuple[int, int] | None = None,
    proof_images: int = _PROOF_IMAGES,
) -> VariantFigures:
    """Measure a checkpoint; its packed file, proved to detect the same, is written to `packed`.

    Args:
        input_hw: the size that multiply-adds are counted at; None: that of the first sample.
        proof_images: on which the packed file must detect what the checkpoint does.
    """
    detector, info = load_checkpoint(folder)
    input_hw = input_hw or detector.config.preprocessing.resized_hw(samples[0].size_hw)
    complexity = measure_complexity(detector, input_hw)
    pictures = [sample.open_image() for sample in samples[:proof_images]]
    export_detector(detector, packed, "packed", samples=pictures, metrics=info.metrics, run=info.extra)
    return VariantFigures(
        complexity.parameters,
        complexity.multiply_adds,
        input_hw,
        packed.stat().st_size,
        {name: BlockFigures(block.parameters, block.multiply_adds) for name, block in complexity.blocks.items()},
    )


def latencies_ms(packed: Sequence[Path], pictures: Sequence[Image]) -> list[float]:
    """Milliseconds of each packed file, from an image's pixels to boxes, on one thread.

    The files take turns, in another order at every picture, so that whatever else the machine does falls on all alike
    and two files of one network get one time. Each picture is shown in as many rounds as the time allows, and its
    quickest one counts, since being interrupted only adds; then the median over the pictures.
    """
    detectors = [Detector(file, engine="onnxruntime", threads=1) for file in packed]
    for detector in detectors:
        detector(pictures[0])
    quickest: list[dict[int, float]] = [{} for _ in detectors]  # seconds, by picture
    began = time.monotonic()
    for turn in range(_ROUNDS * len(pictures)):
        allowed = _LONGEST_SECONDS if turn < len(pictures) else _ENOUGH_SECONDS
        if turn and time.monotonic() - began > allowed * len(detectors):
            break
        shown = turn % len(pictures)
        for place in range(len(detectors)):
            index = (place + turn) % len(detectors)
            start = time.perf_counter()
            detectors[index](pictures[shown])
            seconds = time.perf_counter() - start
            quickest[index][shown] = min(seconds, quickest[index].get(shown, seconds))
    return [1000 * statistics.median(own.values()) for own in quickest]
