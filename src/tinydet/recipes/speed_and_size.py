"""Speed and size of R-FCN on VGG, VGG-1-4 and VGG-1-32 (Wei et al. 2018, Table 1). Nothing is trained: neither the
time nor the bytes of a file depend on what its weights are, beyond what packing makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from tinydet.detectors import build_detector
from tinydet.detectors.choice import DetectorChoice, detector_config
from tinydet.recipes.figures import variant_figures
from tinydet.recipes.recipe import RecipeOptions
from tinydet.recipes.workbench import Workbench
from tinydet.report.page import write_report
from tinydet.report.summary import PaperTable, RunSummary, VariantSummary, write_summary
from tinydet.training.checkpoint import save_checkpoint

LONGER_SIDE = 1024
PAPER_SIZES = (("VGG", 1.0, 103.6, 87.0), ("VGG-1-4", 4.0, 30.2, 5.5), ("VGG-1-32", 32.0, 9.6, 0.13))
"""Name, n, milliseconds on a Titan X, megabytes."""

_PROOF_IMAGES = 1  # a pass of VGG takes seconds, and random weights have little to agree on
_NOTES = (
    "Nothing is trained: the weights are random. The paper's milliseconds are a Titan X's; ours are one thread of the "
    "machine named below, from the picture to its boxes, of the packed file.",
    "The paper's sizes are of float32 weights; ours are the bytes of the packed file, which holds them losslessly, the "
    "graph and the classes.",
)


def run_speed_and_size(
    options: RecipeOptions, networks: tuple[tuple[str, float, float, float], ...] | None = None
) -> RunSummary:
    """Make the table: build, pack, time, and write `summary.json` and `report.html`.

    Args:
        options: of which the data, its splits, widths, shorter side, seed and `latency_images` matter here. Images are
            resized to a longer side of 1024 unless there is a shorter side.
        networks: other rows than the paper's, as `PAPER_SIZES` has them.
    """
    bench = Workbench(options)
    rows = networks or PAPER_SIZES
    variants = bench.timed(_row(bench, width, _paper(rows, width)) for width in _widths(options, rows))
    size = f"shorter side {options.shorter_side}" if options.shorter_side else f"longer side {LONGER_SIDE}"
    summary = RunSummary(
        recipe="quantization_mimic.table1",
        title="Quantization Mimic, Table 1: speed and size of VGG with R-FCN",
        asked=bench.asked("nothing is trained", {"images": f"grey, {size}"}),
        protocol="none: the weights are random",
        metric_names=("mAP",),
        variants=variants,
        paper=PaperTable("Wei et al. 2018, Quantization Mimic", "Table 1"),
        notes=_NOTES,
    )
    write_summary(summary, options.out)
    write_report(options.out)
    return summary


def _widths(options: RecipeOptions, rows: tuple[tuple[str, float, float, float], ...]) -> tuple[float, ...]:
    """The rows' n; the last two are the teacher's and the student's, which the options may change."""
    *wider, teacher, student = (width for _, width, _, _ in rows)
    return tuple(dict.fromkeys((*wider, options.teacher_width or teacher, options.student_width or student)))


def _paper(rows: tuple[tuple[str, float, float, float], ...], width: float) -> dict[str, float | None]:
    return next(({"latency_ms": ms, "bytes_on_disk": 1e6 * mb} for _, n, ms, mb in rows if n == width), {})


def _row(bench: Workbench, width: float, paper: dict[str, float | None]) -> VariantSummary:
    name = "VGG" if width == 1 else f"VGG-1-{width:g}"
    bench.say(f"{name} with R-FCN: packed")
    folder = save_checkpoint(bench.options.out / name, _random_detector(bench, width))
    figures = variant_figures(folder, bench.test_samples, bench.packed(name), proof_images=_PROOF_IMAGES)
    return VariantSummary(
        name,
        f"{name} with R-FCN",
        parameters=figures.parameters,
        multiply_adds=figures.multiply_adds,
        input_hw=figures.input_hw,
        bytes_on_disk=figures.bytes_on_disk,
        paper=paper,
        checkpoint=name,
        blocks=figures.blocks,
    )


def _random_detector(bench: Workbench, width: float) -> Any:
    options = bench.options
    choice = DetectorChoice(detector="rfcn", backbone="vgg16", width=width, gray=True)
    if options.shorter_side:
        choice = replace(choice, shorter_side=options.shorter_side)
    config = detector_config(choice, bench.classes)
    if not options.shorter_side:  # a shorter side that is never reached leaves the longer one to decide
        scaled = replace(config.preprocessing, shorter_side=LONGER_SIDE, longer_side=LONGER_SIDE)
        config = replace(config, preprocessing=scaled)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seeds[0])
        return build_detector(config)
