"""Parameters and megabytes of each block of Faster R-CNN R50-FPN (Compressed Objects Detection, Table 1).

Nothing is trained. Each block is written twice, as its float32 tensors and packed, and the files are measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydet.complexity import measure_complexity
from tinydet.machine import installed_versions, this_machine
from tinydet.packed import PackedFile, write_packed
from tinydet.packed.archives import write_archive
from tinydet.recipes.compressed_detection_start import dense_start
from tinydet.recipes.recipe import RecipeOptions
from tinydet.recipes.workbench import Workbench
from tinydet.report.page import write_report
from tinydet.report.summary import Asked, BlockFigures, PaperTable, RunSummary, VariantSummary, write_summary
from tinydet.training.checkpoint import load_checkpoint

CLASSES = (
    "giraffe", "person", "zebra", "elephant", "impala", "monkey", "lion", "leopard", "crocodile", "buffalo", "hyena",
    "bird", "gorilla",
)  # fmt: skip
"""The paper's (section 3.2)."""


@dataclass(frozen=True)
class PaperBlock:
    """A column of the paper's Table 1. Attributes: block: as the detector names it; None for all of them."""

    block: str | None
    title: str
    millions: float
    megabytes: float


PAPER_BLOCKS = (
    PaperBlock("backbone", "backbone", 26.8, 107.2),
    PaperBlock("proposals", "proposals generator", 0.6, 2.4),
    PaperBlock("heads", "RoI heads", 14.0, 56.0),
    PaperBlock(None, "total", 41.4, 165.6),
)

_NOTES = (
    "The paper's sizes are its rounded parameters times four bytes. Ours are bytes on disk: of a file with the block's "
    "float32 tensors, and of a packed file of the same tensors, which holds them losslessly.",
)
_UNTRAINED = "The weights are random; trained ones pack to nearly the same size, their exponents being as spread out."


def run_block_sizes(options: RecipeOptions) -> RunSummary:
    """Make the table, and write `summary.json` and `report.html`.

    Args:
        options: of which the data (for its classes; `digits`, the default, stands for the paper's 13), the backbone,
            the teacher's width, weights or checkpoint, and the shorter side matter here.
    """
    started = time.monotonic()
    bench = None if options.data == "digits" else Workbench(options)
    classes = bench.classes if bench else CLASSES
    detector, network = _detector(options, classes)
    rows = _rows(detector, options.out)
    settings = {"detector": network, "classes": f"{len(classes)} and background"}
    summary = RunSummary(
        recipe="compressed_detection.table1",
        title="Compressed Objects Detection, Table 1: parameters and megabytes of each block",
        asked=bench.asked("nothing is trained", settings) if bench else _asked(options, settings, started),
        protocol="none: nothing is tested",
        metric_names=("AP50",),
        variants=rows,
        paper=PaperTable("Muhawenayo, Compressed Objects Detection", "Table 1"),
        notes=_NOTES if options.teacher else (*_NOTES, _UNTRAINED),
    )
    write_summary(summary, options.out)
    write_report(options.out)
    return summary


def _detector(options: RecipeOptions, classes: tuple[str, ...]) -> tuple[Any, str]:
    if options.teacher:
        return load_checkpoint(options.teacher)[0], str(options.teacher)
    start = dense_start(options, classes, frozen=True)
    return start.build(options.seeds[0]), start.in_words()


def _rows(detector: Any, out: Path) -> tuple[VariantSummary, ...]:
    """Two rows a block: as float32, and packed."""
    preprocessing = detector.config.preprocessing
    input_hw = preprocessing.fixed_size_hw or preprocessing.resized_hw((600, 1000))
    complexity = measure_complexity(detector, input_hw)
    counted = {name: BlockFigures(block.parameters, block.multiply_adds) for name, block in complexity.blocks.items()}
    rows = []
    for column in PAPER_BLOCKS:
        if column.block is not None and column.block not in counted:
            continue  # a one-stage detector proposes nothing
        own = [counted[column.block]] if column.block else list(counted.values())
        name = column.block or "total"
        sizes = _written(block_tensors(detector, column.block), out / "blocks" / name)
        for form, size in sizes.items():
            paper: dict[str, float | None] = {}
            if form == "float32":
                paper = {"parameters": 1e6 * column.millions, "bytes_on_disk": 1e6 * column.megabytes}
            rows.append(
                VariantSummary(
                    f"{name}_{form}",
                    f"{column.title}, {form}",
                    parameters=sum(block.parameters for block in own),
                    multiply_adds=sum(block.multiply_adds for block in own),
                    input_hw=input_hw,
                    bytes_on_disk=size,
                    paper=paper,
                    blocks=counted if column.block is None and form == "float32" else {},
                )
            )
    return tuple(rows)


def block_tensors(detector: Any, block: str | None) -> dict[str, NDArray[np.float32]]:
    """The tensors that detecting needs, of one block or of all; batch normalization's counters are not among them."""
    module = detector if block is None else detector.blocks()[block]
    return {
        name: tensor.detach().cpu().numpy()
        for name, tensor in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def _written(tensors: Mapping[str, NDArray[np.float32]], stem: Path) -> dict[str, int]:
    """Bytes of the two files."""
    plain, packed = stem.with_suffix(".safetensors"), stem.with_suffix(".tinydet")
    write_archive(plain, tensors)
    write_packed(packed, PackedFile(tensors=tensors))
    return {"float32": plain.stat().st_size, "packed": packed.stat().st_size}


def _asked(options: RecipeOptions, settings: dict[str, str], started: float) -> Asked:
    return Asked(
        data="no data: the paper's 13 classes",
        split="no image",
        seeds=options.seeds,
        budget="nothing is trained",
        command=options.command,
        machine=str(this_machine()),
        versions=installed_versions(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - started,
        settings=settings,
    )
