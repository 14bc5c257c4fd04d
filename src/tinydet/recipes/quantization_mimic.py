"""Quantization Mimic (Wei et al. 2018) and its reproduction: ResNet18 with Faster R-CNN.

    tinydet run quantization_mimic.table7 --data VOCdevkit --out runs/table7
    tinydet run quantization_mimic.table7 --data BCCD --out runs/bccd --budget 0.02 --seeds 0,1,2 \
        --teacher-width 2 --shorter-side 240

Cost: the paper's whole schedule is 40,000 iterations for the teacher and for each student, hours on a GPU; with
`--budget 0.02`, a half-width teacher and images of 240 pixels it is minutes a network on two CPU cores.

| table | row | paper (VOC07 mAP) |
| --- | --- | --- |
| 7 | ResNet18 full, quantized | 72.9, 73.3 |
| 7 | ResNet18-1-16 scratch, Quantization Mimic | 40.5, 47.0 |
| 8 | ResNet18-1-16 Li et al., Quantization Mimic | 44.6, 47.0 |
| 9 | lambda 10, 1, 0.1 | 44.1, 47.0, 43.0 |
| reproduction | ResNet18 full, quantized at inference | 67.64, 67.64 |

The numbers measured here are in docs/results.md, each with its command.
"""

from __future__ import annotations

from dataclasses import replace

from tinydet.detectors.choice import DetectorChoice
from tinydet.distill.mimic import MimicConfig
from tinydet.recipes.mimic_chain import recipe_of
from tinydet.recipes.plan import MimicPlan, StudentVariant, TeacherVariant
from tinydet.report.summary import PaperTable
from tinydet.training.schedule import REPRODUCTION_SCHEDULE, RESNET_SCHEDULE

PAPER = "Wei et al. 2018, Quantization Mimic"
MIMIC = MimicConfig(weight=1.0, regions=128)
COST = "40,000 iterations a network: hours on a GPU; with --budget 0.02 minutes a network on two CPU cores"

_TEACHER = TeacherVariant("teacher", "teacher, full precision", paper={"mAP": 0.729})
_QUANTIZED_TEACHER = TeacherVariant("teacher_quantized", "teacher, quantized", "fine-tuned", {"mAP": 0.733})
_AT_INFERENCE = TeacherVariant("teacher_q_at_inference", "teacher, Q at inference only", "inference")

SCRATCH = StudentVariant("scratch", "student, scratch", paper={"mAP": 0.405})
LI = StudentVariant("mimic", "student, Li et al. (mimic only)", MIMIC, paper={"mAP": 0.446})
QUANTIZATION_MIMIC = StudentVariant(
    "quantization_mimic",
    "student, Quantization Mimic",
    MIMIC,
    teacher_quantized=True,
    student_quantized=True,
    paper={"mAP": 0.470},
)

_TABLE_7 = MimicPlan(
    name="quantization_mimic.table7",
    title="Quantization Mimic, Table 7: ResNet18 and ResNet18-1-16 with Faster R-CNN",
    paper=PaperTable(PAPER, "Table 7"),
    teacher=DetectorChoice(width=1),
    student=DetectorChoice(width=16),
    teachers=(_TEACHER, _QUANTIZED_TEACHER),
    students=(SCRATCH, QUANTIZATION_MIMIC),
    schedule=RESNET_SCHEDULE,
)
TABLE_8 = replace(
    _TABLE_7,
    name="quantization_mimic.table8",
    title="Quantization Mimic, Table 8: against mimic only",
    paper=PaperTable(PAPER, "Table 8"),
    students=(SCRATCH, LI, QUANTIZATION_MIMIC),
)
_TABLE_9 = replace(
    _TABLE_7,
    name="quantization_mimic.table9",
    title="Quantization Mimic, Table 9: the weight of the mimic loss",
    paper=PaperTable(PAPER, "Table 9"),
    students=tuple(
        replace(
            QUANTIZATION_MIMIC,
            name=f"lambda_{weight:g}",
            title=f"student, lambda {weight:g}",
            mimic=replace(MIMIC, weight=weight),
            paper={"mAP": number},
        )
        for weight, number in ((10.0, 0.441), (1.0, 0.470), (0.1, 0.430))
    ),
)
_TWO_STAGE = replace(
    _TABLE_7,
    name="quantization_mimic.reproduction",
    title="The reproduction of Quantization Mimic: features first, then the detector",
    paper=PaperTable("Prasad K and Gokulan, reproduction of Quantization Mimic"),
    teachers=(replace(_TEACHER, paper={"mAP": 0.6764}), replace(_AT_INFERENCE, paper={"mAP": 0.6764})),
    students=(
        replace(SCRATCH, paper={}),
        replace(LI, name="mimic_two_stage", title="student, mimic, two stages", two_stage=True, paper={}),
        StudentVariant("student_quantized", "student, quantized", student_quantized=True),
        replace(
            QUANTIZATION_MIMIC,
            name="quantization_mimic_two_stage",
            title="student, Quantization Mimic, two stages",
            two_stage=True,
            teacher_quantized=True,
            paper={},
        ),
    ),
    schedule=REPRODUCTION_SCHEDULE,
)


RECIPES = tuple(recipe_of(plan, COST) for plan in (_TABLE_7, TABLE_8, _TABLE_9, _TWO_STAGE))
