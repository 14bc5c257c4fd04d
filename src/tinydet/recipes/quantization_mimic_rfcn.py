"""Quantization Mimic (Wei et al. 2018), Tables 1 to 6 and Figure 5: VGG with R-FCN, grey images, WIDER FACE.

    tinydet run quantization_mimic.table2 --data WIDER_FACE --wider-ground-truth ground_truth --out runs/table2
    tinydet run quantization_mimic.table4 --data BCCD --out runs/bccd --budget 0.01 --shorter-side 240 --seeds 0,1,2
    tinydet run quantization_mimic.table3 --data BCCD --out runs/quick --budget 0.0005 --shorter-side 160

Cost: the paper's whole schedule is 80,000 iterations for the teacher and for each student, hours on a GPU; the last
command is minutes on two CPU cores. Table 1 trains nothing.

| table | row | paper (WIDER FACE easy / medium / hard) |
| --- | --- | --- |
| 2 | VGG full; VGG-1-4 full, quantized | 83.9 / 61.0 / 26.8; 82.4 / 62.5 / 26.3, 83.7 / 65.0 / 27.4 |
| 2 | VGG-1-32 scratch, Quantization Mimic | 71.3 / 55.4 / 23.8, 73.9 / 62.1 / 27.6 |
| 3 | scratch, depthwise | 71.3 / 55.4 / 23.8, 69.1 / 51.1 / 21.6 |
| 3 | 2 groups, 3 groups | 67.8 / 51.9 / 22.4, 65.8 / 50.8 / 22.1 |
| 3 | He et al., Molchanov et al. | 68.0 / 50.7 / 22.1, 73.2 / 58.2 / 25.2 |
| 3 | Li et al., Quantization Mimic | 71.9 / 58.2 / 25.6, 73.9 / 62.1 / 27.6 |
| 4 | neither quantized, the teacher, both | 71.9 / 58.2 / 25.6, 73.0 / 59.3 / 25.6, 73.9 / 62.1 / 27.6 |
| 5 | VGG-1-32 quantized without mimic, plain | 71.9 / 55.2 / 23.7, 71.3 / 55.4 / 23.8 |
| 6 | power of two: teacher, student | 83.9 / 64.8 / 27.8, 73.0 / 59.5 / 26.6 |
| 6 | uniform: teacher, student | 83.7 / 65.0 / 27.4, 73.9 / 62.1 / 27.6 |

The numbers measured here are in docs/results.md, each with its command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from tinydet.detectors.choice import DetectorChoice
from tinydet.detectors.matched_complexity import TABLE3_INPUT_HW
from tinydet.distill.mimic import MimicConfig
from tinydet.quantizers import PowerOfTwoQuantizerConfig, UniformQuantizerConfig
from tinydet.recipes.ablation_figures import add_ablation_curves
from tinydet.recipes.mimic_chain import recipe_of
from tinydet.recipes.mismatch_figure import add_mismatch
from tinydet.recipes.plan import MimicPlan, StudentVariant, TeacherVariant
from tinydet.recipes.pruned_students import prune_as_he, prune_as_molchanov
from tinydet.recipes.recipe import PaperRow, Recipe
from tinydet.recipes.speed_and_size import PAPER_SIZES, run_speed_and_size
from tinydet.report.summary import PaperTable
from tinydet.training.schedule import R_FCN_SCHEDULE

_PAPER = "Wei et al. 2018, Quantization Mimic"
_COST = "80,000 iterations a network: hours on a GPU; --budget 0.0005 --shorter-side 160: minutes on two CPU cores"
_ALL_FACES = "The paper's easy, medium and hard are subsets of WIDER FACE; --wider-ground-truth measures them here too."

NETWORK = DetectorChoice(detector="rfcn", backbone="vgg16", gray=True)
"""R-FCN on VGG as section 3.5 has it: grey images, one ratio and four scales of anchors, shorter side 600."""

_MIMIC = MimicConfig(weight=1.0, regions=2000, output_size=3)
"""2000 regions; pooled to 3 x 3, "the ROI output size of R-FCN detector", since no other size is named."""


def _ap(easy: float, medium: float, hard: float) -> dict[str, float | None]:
    return {"easy": easy / 100, "medium": medium / 100, "hard": hard / 100}


def _full_width(choice: DetectorChoice) -> DetectorChoice:
    return replace(choice, width=1)


def _split(groups: int | Literal["depthwise"]) -> Callable[[DetectorChoice], DetectorChoice]:
    return partial(replace, groups=groups)


_TEACHER = TeacherVariant("teacher", "teacher, full precision", paper=_ap(82.4, 62.5, 26.3))
_QUANTIZED_TEACHER = TeacherVariant("teacher_quantized", "teacher, quantized", "fine-tuned", _ap(83.7, 65.0, 27.4))
_FULL_VGG = TeacherVariant("vgg", "VGG, full precision", paper=_ap(83.9, 61.0, 26.8), change=_full_width)

SCRATCH = StudentVariant("scratch", "student, scratch", paper=_ap(71.3, 55.4, 23.8))
LI = StudentVariant("mimic", "student, Li et al. (mimic only)", _MIMIC, paper=_ap(71.9, 58.2, 25.6))
TEACHER_ONLY = replace(
    LI,
    name="teacher_only",
    title="student, teacher quantized",
    teacher_quantized=True,
    paper=_ap(73.0, 59.3, 25.6),
)
QUANTIZATION_MIMIC = replace(
    TEACHER_ONLY,
    name="quantization_mimic",
    title="student, Quantization Mimic",
    student_quantized=True,
    paper=_ap(73.9, 62.1, 27.6),
)

TABLE_2 = MimicPlan(
    name="quantization_mimic.table2",
    title="Quantization Mimic, Table 2: VGG, VGG-1-4 and VGG-1-32 with R-FCN",
    paper=PaperTable(_PAPER, "Table 2"),
    teacher=replace(NETWORK, width=4),
    student=replace(NETWORK, width=32),
    teachers=(_FULL_VGG, _TEACHER, _QUANTIZED_TEACHER),
    students=(SCRATCH, QUANTIZATION_MIMIC),
    schedule=R_FCN_SCHEDULE,
    notes=(_ALL_FACES, "VGG stands for comparison, from random weights; the teacher of the students is VGG-1-4."),
)


def _with_complexity(variant: StudentVariant, mflops: int) -> StudentVariant:
    return replace(variant, paper={**variant.paper, "multiply_adds": 1e6 * mflops})


_TABLE_3 = replace(
    TABLE_2,
    name="quantization_mimic.table3",
    title="Quantization Mimic, Table 3: other ways to a network of this complexity",
    paper=PaperTable(_PAPER, "Table 3"),
    teachers=(_TEACHER, _QUANTIZED_TEACHER),
    students=(
        _with_complexity(SCRATCH, 227),
        StudentVariant(
            "depthwise",
            "student, depthwise-separable",
            paper=_ap(69.1, 51.1, 21.6) | {"multiply_adds": 232e6},
            change=_split("depthwise"),
        ),
        StudentVariant(
            "groups_2", "student, 2 groups", paper=_ap(67.8, 51.9, 22.4) | {"multiply_adds": 286e6}, change=_split(2)
        ),
        StudentVariant(
            "groups_3", "student, 3 groups", paper=_ap(65.8, 50.8, 22.1) | {"multiply_adds": 273e6}, change=_split(3)
        ),
        StudentVariant(
            "he",
            "student, He et al. (LASSO)",
            paper=_ap(68.0, 50.7, 22.1) | {"multiply_adds": 227e6},
            prune=prune_as_he,
        ),
        StudentVariant(
            "molchanov",
            "student, Molchanov et al. (Taylor)",
            paper=_ap(73.2, 58.2, 25.2) | {"multiply_adds": 227e6},
            prune=prune_as_molchanov,
        ),
        _with_complexity(LI, 227),
        _with_complexity(QUANTIZATION_MIMIC, 227),
    ),
    complexity_input_hw=TABLE3_INPUT_HW,
    notes=(
        _ALL_FACES,
        "Multiply-adds are of one image of 1000 x 600 pixels; docs/complexity.md says why the paper's differ.",
        "Pruned students are the trained teacher, of whose channels as many are left as the student's layers have.",
        "Networks in groups start from random weights, whatever --student-weights says: it is of the plain network.",
    ),
)

_TABLE_4 = replace(
    TABLE_2,
    name="quantization_mimic.table4",
    title="Quantization Mimic, Table 4: teacher and student quantized or not",
    paper=PaperTable(_PAPER, "Table 4"),
    teachers=(_TEACHER, _QUANTIZED_TEACHER),
    students=(replace(LI, title="student, neither quantized"), TEACHER_ONLY, QUANTIZATION_MIMIC),
    notes=(_ALL_FACES, "The teachers' numbers are those of the paper's Table 2."),
)

_TABLE_5 = replace(
    TABLE_2,
    name="quantization_mimic.table5",
    title="Quantization Mimic, Table 5: the student quantized, without a teacher",
    paper=PaperTable(_PAPER, "Table 5"),
    teachers=(),
    students=(
        StudentVariant("student_quantized", "student, quantized", student_quantized=True, paper=_ap(71.9, 55.2, 23.7)),
        SCRATCH,
    ),
    notes=(_ALL_FACES,),
)

_POWERS = PowerOfTwoQuantizerConfig()
_TABLE_6 = replace(
    TABLE_2,
    name="quantization_mimic.table6",
    title="Quantization Mimic, Table 6: codes that are powers of two, and uniform ones",
    paper=PaperTable(_PAPER, "Table 6"),
    teachers=(
        TeacherVariant(
            "teacher_power_of_two", "teacher, powers of two", "fine-tuned", _ap(83.9, 64.8, 27.8), quantizer=_POWERS
        ),
        replace(_QUANTIZED_TEACHER, title="teacher, uniform"),
    ),
    students=(
        replace(
            QUANTIZATION_MIMIC,
            name="power_of_two",
            title="student, powers of two",
            quantizer=_POWERS,
            paper=_ap(73.0, 59.5, 26.6),
        ),
        replace(QUANTIZATION_MIMIC, title="student, uniform"),
    ),
    notes=(_ALL_FACES,),
)

_FIGURE_5 = replace(
    TABLE_2,
    name="quantization_mimic.figure5",
    title="Quantization Mimic, Figure 5: how far the student's regions are from the teacher's",
    paper=PaperTable(_PAPER, "Figure 5 and Table 4"),
    teachers=(_QUANTIZED_TEACHER,),
    students=(
        replace(TEACHER_ONLY, title="student, full precision"),
        replace(QUANTIZATION_MIMIC, title="student, quantized"),
    ),
    notes=(
        _ALL_FACES,
        "`mismatch` is the mean over the teacher's regions of the share of entries that are further than 0.3 from the "
        "teacher's, times 100; lower is better. Both students have the same quantized teacher.",
    ),
    finish=add_mismatch,
)


def _stride(stride: float) -> UniformQuantizerConfig:
    return UniformQuantizerConfig(stride)


_BASE = replace(
    QUANTIZATION_MIMIC,
    title="student, stride 1, 2000 of the teacher's regions",
    quantizer=_stride(1),
    regions=2000,
)
STRIDES, REGIONS = (0.5, 2.0, 4.0), (32, 256)

_ABLATIONS = replace(
    TABLE_2,
    name="quantization_mimic.ablations",
    title="Quantization Mimic: stride of the quantizer, number of regions, whose proposals",
    paper=PaperTable(_PAPER, "Table 2"),
    teachers=(
        _TEACHER,
        replace(_QUANTIZED_TEACHER, title="teacher, stride 1", quantizer=_stride(1)),
        *(
            TeacherVariant(f"teacher_stride_{s:g}", f"teacher, stride {s:g}", "fine-tuned", quantizer=_stride(s))
            for s in STRIDES
        ),
    ),
    students=(
        _BASE,
        *(
            replace(_BASE, name=f"stride_{s:g}", title=f"student, stride {s:g}", quantizer=_stride(s), paper={})
            for s in STRIDES
        ),
        *(replace(_BASE, name=f"regions_{n}", title=f"student, {n} regions", regions=n, paper={}) for n in REGIONS),
        *(
            replace(
                _BASE,
                name=f"regions_of_{whose}",
                title=f"student, regions: the {whose}",
                mimic=replace(_MIMIC, region_source=whose),
                paper={},
            )
            for whose in ("student", "objects")
        ),
    ),
    notes=(_ALL_FACES, "The paper has no such table; each row differs from the first student in what it names."),
    finish=add_ablation_curves,
)


TABLE_1 = Recipe(
    "quantization_mimic.table1",
    "Quantization Mimic, Table 1: speed and size",
    PaperTable(_PAPER, "Table 1"),
    "nothing is trained; minutes, most of them for VGG at full width",
    tuple(PaperRow(f"{name} with R-FCN", f"{ms} ms on a Titan X, {mb} MB") for name, _, ms, mb in PAPER_SIZES),
    run_speed_and_size,
)

RECIPES = (
    TABLE_1,
    *(recipe_of(plan, _COST) for plan in (TABLE_2, _TABLE_3, _TABLE_4, _TABLE_5, _TABLE_6, _FIGURE_5, _ABLATIONS)),
)
