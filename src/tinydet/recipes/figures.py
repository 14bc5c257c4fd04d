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
_LONGEST_SECONDS = 60.0  # of timing a network


@dataclass(frozen=True)
class VariantFigures:
    """Attributes:
    input_hw: of the network's input for the first test image, for which multiply-adds are counted.
    bytes_on_disk: of the packed file.
    latency_ms: median of one image from its pixels to boxes, packed file, one thread; None where it was not asked for.
    """

    parameters: int
    multiply_adds: int
    input_hw: tuple[int, int]
    bytes_on_disk: int
    latency_ms: float | None
    blocks: dict[str, BlockFigures] = field(default_factory=dict)


def variant_figures(
    folder: Path,
    samples: Sequence[Sample],
    latency_images: int,
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
    pictures = [sample.open_image() for sample in samples[: max(proof_images, latency_images)]]
    export_detector(detector, packed, "packed", samples=pictures[:proof_images], metrics=info.metrics, run=info.extra)
    return VariantFigures(
        complexity.parameters,
        complexity.multiply_adds,
        input_hw,
        packed.stat().st_size,
        _latency_ms(packed, pictures[:latency_images]) if latency_images else None,
        {name: BlockFigures(block.parameters, block.multiply_adds) for name, block in complexity.blocks.items()},
    )


def _latency_ms(packed: Path, pictures: Sequence[Image]) -> float:
    """The median over the pictures, or over as many of them as a minute allows, after the first, which warms up."""
    detector = Detector(packed, engine="onnxruntime", threads=1)
    detector(pictures[0])
    times: list[float] = []
    for picture in pictures:
        if sum(times) > 1000 * _LONGEST_SECONDS:
            break
        start = time.perf_counter()
        detector(picture)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)
