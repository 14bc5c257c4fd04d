"""Distilling MobileNet-SSD (Ko and Yoo), Table I: baseline, channel-increased teacher, distilled student.

    tinydet run kd_ssd.table1 --data VOCdevkit --out runs/kd --student-weights mobilenet_v1.safetensors
    tinydet run kd_ssd.table1 --data BCCD --out runs/kd_bccd --budget 0.005 --batch-size 8 --learning-rate 0.02 \
        --student-width 4 --teacher-width 2 --shorter-side 200

Cost: the whole schedule is 120,000 steps of 32 images for the teacher and for each student, days on a GPU; the second
command is minutes a network on one CPU core.

| row | paper (VOC07 mAP) | paper (ms on a Titan Xp) |
| --- | --- | --- |
| MobileNet-SSD | 67.5 | 5 |
| its teacher, channels increased | 69.7 | 9 |
| MobileNet-SSD, distilled | 68.0 | 5 |

What the paper does not say is chosen here. Alpha, beta and T of Eq. 1: 0.5, 0.5 and 2, without the factor T^2, which
the equation does not have. The teacher's channels: divided by 0.75, at which it costs about 1.7 times the student's
multiply-adds (its milliseconds are 1.8 times the student's). The schedule: SSD's own. Beside the paper's rows stand
boxes distilled too, which it leaves for later, and Quantization Mimic on the same two networks.

The numbers measured here are in docs/results.md, each with its command.
"""

from __future__ import annotations

from dataclasses import replace

from tinydet.data.ssd_augment import SSDAugmentConfig
from tinydet.detectors.choice import DetectorChoice
from tinydet.distill.logits import BoxDistillConfig, LogitConfig
from tinydet.distill.mimic import MimicConfig
from tinydet.recipes.mimic_chain import recipe_of
from tinydet.recipes.plan import MimicPlan, StudentVariant, TeacherVariant
from tinydet.report.summary import PaperTable
from tinydet.training.schedule import Schedule

PAPER = PaperTable("Ko and Yoo, Knowledge Distillation based Compact Model Learning", "Table I")
COST = (
    "120,000 steps of 32 images a network: days on a GPU; --budget 0.005 --batch-size 8 --learning-rate 0.02 "
    "--student-width 4 --teacher-width 2 --shorter-side 200: minutes a network on one CPU core"
)

SSD_SCHEDULE = Schedule(120_000, milestones=(80 / 120, 100 / 120))
"""Liu et al. 2016, section 3.1 and their code, VOC 07+12: 0.001 until 80,000, 0.0001 until 100,000, then 0.00001."""

NETWORK = DetectorChoice(detector="ssd", backbone="mobilenet_v1", shorter_side=300, default_boxes=3000)
"""3,000 candidate boxes, as section III.A has it, for the teacher and the student alike."""

MIMIC = MimicConfig(weight=1.0, regions=128, per_entry=True)
"""On the maps that Q is on. Summed over a region (Eq. 5) it would outweigh detection where nothing is pretrained."""

EQUATION_1 = LogitConfig(alpha=0.5, temperature=2.0, t_squared=False)

TEACHER = TeacherVariant("teacher", "teacher, channels increased", paper={"mAP": 0.697, "latency_ms": 9.0})
QUANTIZED_TEACHER = TeacherVariant("teacher_quantized", "teacher, quantized", "fine-tuned")

BASELINE = StudentVariant("baseline", "student, baseline", paper={"mAP": 0.675, "latency_ms": 5.0})
KD = StudentVariant("kd", "student, KD (Eq. 1)", distill=EQUATION_1, paper={"mAP": 0.680, "latency_ms": 5.0})
KD_AND_BOXES = StudentVariant(
    "kd_boxes", "student, KD and boxes", distill=replace(EQUATION_1, boxes=BoxDistillConfig("bounded"))
)
LI = StudentVariant("mimic", "student, Li et al. (mimic only)", MIMIC)
QUANTIZATION_MIMIC = StudentVariant(
    "quantization_mimic", "student, Quantization Mimic", MIMIC, teacher_quantized=True, student_quantized=True
)

CHOSEN_NOTE = (
    "The paper names no alpha, beta and T of its Eq. 1, no schedule and no width of its teacher: here 0.5, 0.5 and 2 "
    "(without a factor T^2, as in the equation), SSD's own schedule, and a teacher whose channels are divided by 0.75 "
    "where --teacher-width says nothing else."
)
TIMES_NOTE = (
    "The paper's milliseconds are a Titan Xp's. Ours are one thread of this run's machine, from an image's pixels to "
    "its boxes, of packed files that took turns: compare rows, not papers."
)
MIMIC_NOTE = "The mimic loss is divided by a region's entries; its regions are the teacher's most confident boxes."

TABLE_1 = MimicPlan(
    name="kd_ssd.table1",
    title="Distilling MobileNet-SSD, Table I: baseline, wider teacher, distilled student",
    paper=PAPER,
    teacher=replace(NETWORK, width=0.75),
    student=NETWORK,
    teachers=(TEACHER, QUANTIZED_TEACHER),
    students=(BASELINE, KD, KD_AND_BOXES, QUANTIZATION_MIMIC),
    schedule=SSD_SCHEDULE,
    batch_size=32,
    augment=SSDAugmentConfig(),
    notes=(
        CHOSEN_NOTE,
        TIMES_NOTE,
        "Boxes are distilled as Chen et al. 2017, Eq. 4, bound them; the paper leaves them for later.",
        MIMIC_NOTE,
    ),
    schedule_of="SSD's schedule (Liu et al. 2016)",
)

RECIPES = (recipe_of(TABLE_1, COST),)
