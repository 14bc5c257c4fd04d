"""Compressed Objects Detection (Muhawenayo): what pruning does to Faster R-CNN R50-FPN.

    tinydet run compressed_detection.table1 --out runs/co_table1
    tinydet run compressed_detection.table2 --data photos --out runs/co_table2 --teacher-weights detectron2
    tinydet run compressed_detection.figure3 --data BCCD --out runs/co_figure3 --budget 0.2 --teacher-width 8 \
        --shorter-side 160

Cost: table 1 a minute of a CPU. Table 2 and figure 3: 10,000 iterations for the dense detector (the paper names no
number), hours on a GPU at full width; with `--budget 0.2 --teacher-width 8 --shorter-side 160` about a quarter of an
hour on a CPU. `--teacher CHECKPOINT` takes a detector that is trained already.

| table | row | paper |
| --- | --- | --- |
| 1 | parameters of backbone, proposals, RoI heads, all | 26.8 M, 0.6 M, 14.0 M, 41.4 M |
| 2 | AP50 dense; backbone pruned by 10, 20, ... 50, 70, 80, 90 % | 87.92; 87.97 ... 83.48, 77.42, 60.24, 0.17 |
| 2 | AP50, backbone and RoI heads pruned alike | 87.92; 87.72 ... 61.18, 54.69, 33.12, 0.14 |

The text (section 3.2, caption of Table 2) says L1 unstructured, global over each block, and of no training after it:
so here. `compressed_detection.fine_tuned` trains each level on for a tenth of the schedule, which the paper does not.
The numbers measured here are in docs/results.md, each with its command.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tinydet.recipes.compressed_detection_blocks import PAPER_BLOCKS, run_block_sizes
from tinydet.recipes.compressed_detection_levels import Line, SparsityPlan
from tinydet.recipes.compressed_detection_summary import run_sparsity
from tinydet.recipes.recipe import NO_STUDENTS, PaperRow, Recipe
from tinydet.report.summary import PaperTable

_PAPER = "Muhawenayo, Compressed Objects Detection"
_PERCENTS = (10, 20, 30, 40, 50, 70, 80, 90)
_DENSE = (0.8792, 165.6e6)

_BACKBONE_AP50 = (87.97, 88.40, 88.15, 86.95, 83.48, 77.42, 60.24, 0.17)
_BOTH_AP50 = (87.72, 87.04, 83.60, 73.64, 61.18, 54.69, 33.12, 0.14)
_BACKBONE_MB = (154.88, 144.16, 133.44, 122.72, 112.0, 90.56, 79.84, 69.12)
_HEADS_MB = (160.0, 154.4, 148.8, 143.2, 137.6, 126.4, 120.8, 115.2)
_BOTH_MB = (149.2, 132.9, 116.6, 100.3, 84.0, 51.3, 35.0, 18.7)


def _numbers(ap50: tuple[float, ...], megabytes: tuple[float, ...]) -> dict[int, tuple[float, float]]:
    return {percent: (ap / 100, 1e6 * mb) for percent, ap, mb in zip(_PERCENTS, ap50, megabytes, strict=True)}


_MASKED = (
    Line("backbone", "backbone", ("backbone",), _PERCENTS, paper=_numbers(_BACKBONE_AP50, _BACKBONE_MB)),
    Line("heads", "RoI heads", ("heads",), _PERCENTS, paper=_numbers(_BACKBONE_AP50, _HEADS_MB)),
    Line("both", "backbone and RoI heads", ("backbone", "heads"), _PERCENTS, paper=_numbers(_BOTH_AP50, _BOTH_MB)),
)
_FEW = (30, 50, 70)
_REMOVED = tuple(
    replace(
        line, name=f"{line.name}_removed", title=f"{line.title}, channels out", removed=True, percents=_FEW, paper={}
    )
    for line in _MASKED
)

_NOTES = (
    "Pruned: weights of convolutions and fully connected layers with the smallest absolute values, compared over a "
    "block (L1 global unstructured, section 3.2). Every level is pruned from the dense detector.",
    "The paper's sizes are the dense size times the kept share; ours are bytes on disk of the packed file, which is "
    "lossless: about 27 bits for a weight that is kept, and less than one to say of each whether it is.",
    "The paper prints the same AP50 for pruned RoI heads as for the pruned backbone, digit for digit.",
)
_AS_IN_THE_PAPER = "Nothing is trained after pruning: the paper speaks of none."
_TIMES = (
    "Milliseconds are of the packed file on one thread, from an image's pixels to its boxes, all files in turns. Zeros "
    "take as long as other weights; rows with channels out are smaller networks, by the L2 norms of whole filters."
)

TABLE_2 = SparsityPlan(
    name="compressed_detection.table2",
    title="Compressed Objects Detection, Table 2: AP50 and size of the pruned detector",
    paper=PaperTable(_PAPER, "Table 2"),
    lines=_MASKED,
    paper_dense=_DENSE,
    notes=(*_NOTES, _AS_IN_THE_PAPER),
)
FIGURE_3 = replace(
    TABLE_2,
    name="compressed_detection.figure3",
    title="Compressed Objects Detection, Figure 3: AP50, size and latency against sparsity",
    paper=PaperTable(_PAPER, "Figure 3 and Table 2"),
    lines=(*_MASKED, *_REMOVED),
    notes=(*_NOTES, _AS_IN_THE_PAPER, _TIMES),
    timed=True,
)
FINE_TUNED = replace(
    FIGURE_3,
    name="compressed_detection.fine_tuned",
    title="Compressed Objects Detection, Table 2 with each level trained on",
    lines=tuple(
        replace(line, name=f"{line.name}_tuned", percents=percents)  # table 2's levels may lie in the same folder
        for line, percents in ((_MASKED[0], (*_FEW, 90)), (_MASKED[2], (*_FEW, 90)), (_REMOVED[2], _FEW))
    ),
    notes=(
        *_NOTES,
        "Each level is trained on for a tenth of the schedule, at a tenth of its learning rate and with zeros kept "
        "zero. The paper speaks of no such training: its numbers are of pruning alone.",
        _TIMES,
    ),
    fine_tune_share=0.1,
)

_COST = (
    "10,000 iterations once: hours on a GPU; with --budget 0.2 --teacher-width 8 --shorter-side 160 about a quarter "
    "of an hour on a CPU"
)


def _recipe(plan: SparsityPlan) -> Recipe:
    rows = [PaperRow("dense", f"{100 * plan.paper_dense[0]:.2f}")]
    rows += [
        PaperRow(f"{line.title}, {percent} %", f"{100 * line.paper[percent][0]:.2f}")
        for line in plan.lines
        for percent in line.percents
        if percent in line.paper
    ]
    run = partial(run_sparsity, plan)
    return Recipe(plan.name, plan.title, plan.paper, _COST, tuple(rows), run, NO_STUDENTS)


_TABLE_1 = Recipe(
    "compressed_detection.table1",
    "Compressed Objects Detection, Table 1: parameters and megabytes of each block",
    PaperTable(_PAPER, "Table 1"),
    "nothing is trained: a minute of a CPU",
    tuple(PaperRow(block.title, f"{block.millions:g} M, {block.megabytes:g} MB") for block in PAPER_BLOCKS),
    run_block_sizes,
    NO_STUDENTS,
)

RECIPES = (_TABLE_1, *(_recipe(plan) for plan in (TABLE_2, FIGURE_3, FINE_TUNED)))
