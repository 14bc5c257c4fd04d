"""Ways of teaching a small detector on equal terms: one teacher, one schedule, the same seeds, images and student.

    tinydet run comparison.faster_rcnn --data BCCD --out runs/comparison --budget 0.02 --seeds 0,1,2 \
        --teacher-width 2 --shorter-side 240
    tinydet run comparison.ssd --data BCCD --out runs/comparison_ssd --budget 0.005 --batch-size 8 \
        --learning-rate 0.02 --student-width 4 --teacher-width 2 --shorter-side 200 --seeds 0,1,2

Cost: as quantization_mimic.table8 and kd_ssd.table1 have it for each network, of which there are 8 and 9.

Rows: no teacher; mimic of regions (Li et al. 2017); Quantization Mimic (Wei et al. 2018); whole maps by PKD (Cao et al.
2022), CWD (Shu et al. 2021) and MGD (Yang et al. 2022); for SSD also class scores (Ko and Yoo).

No paper has these tables. Where a row is one of a paper's, its number stands beside it: of faster_rcnn Wei et al. 2018,
Tables 7 and 8 (VOC07 mAP; teacher 72.9, quantized 73.3, scratch 40.5, Li et al. 44.6, Quantization Mimic 47.0); of ssd
Ko and Yoo, Table I (baseline 67.5, teacher 69.7, distilled 68.0).

Each loss has the weight that its authors give it, where they name one; theirs were found on other networks and larger
images, so that a method that loses here may win with another weight. `tinydet distill --weight` is for trying that.

The numbers measured here are in docs/results.md, each with its command.
"""

from __future__ import annotations

from dataclasses import replace

from tinydet.distill.features import CWDConfig, MGDConfig, PKDConfig
from tinydet.recipes import kd_ssd, quantization_mimic
from tinydet.recipes.mimic_chain import recipe_of
from tinydet.recipes.plan import StudentVariant
from tinydet.report.summary import PaperTable

_EQUAL_TERMS = (
    "All students have one teacher (Quantization Mimic's is the same one, fine-tuned with Q), one network, one "
    "schedule and the same seeds. Losses have their authors' weights, found on larger networks and images."
)
_MIMIC = replace(quantization_mimic.MIMIC, per_entry=True)


def _whole_maps(maps: tuple[int, ...] | None) -> tuple[StudentVariant, ...]:
    """A row for each loss on whole maps.

    Args:
        maps: those compared, 0 being the finest; None: all.
    """
    return (
        StudentVariant("pkd", "student, PKD", distill=PKDConfig(maps=maps)),
        StudentVariant("cwd", "student, CWD", distill=CWDConfig(maps=maps)),
        StudentVariant("mgd", "student, MGD", distill=MGDConfig(maps=maps)),
    )


FASTER_RCNN = replace(
    quantization_mimic.TABLE_8,
    name="comparison.faster_rcnn",
    title="Ways of teaching on equal terms: ResNet18 and ResNet18-1-16 with Faster R-CNN",
    paper=PaperTable(quantization_mimic.PAPER, "Tables 7 and 8"),
    students=(
        quantization_mimic.SCRATCH,
        replace(quantization_mimic.LI, mimic=_MIMIC),
        replace(quantization_mimic.QUANTIZATION_MIMIC, mimic=_MIMIC),
        *_whole_maps(None),
    ),
    notes=(_EQUAL_TERMS, "The mimic loss is divided by a region's entries."),
)

SSD = replace(
    kd_ssd.TABLE_1,
    name="comparison.ssd",
    title="Ways of teaching on equal terms: MobileNetV1 with SSD",
    students=(
        replace(kd_ssd.BASELINE, name="scratch", title="student, scratch"),
        replace(kd_ssd.KD, title="student, class scores (Eq. 1)"),
        kd_ssd.LI,
        kd_ssd.QUANTIZATION_MIMIC,
        *_whole_maps((0, 1)),
    ),
    notes=(
        _EQUAL_TERMS,
        "Features are compared on the two finest maps, which are those that Q is on.",
        kd_ssd.CHOSEN_NOTE,
        kd_ssd.TIMES_NOTE,
        kd_ssd.MIMIC_NOTE,
    ),
)

RECIPES = (recipe_of(SSD, kd_ssd.COST), recipe_of(FASTER_RCNN, quantization_mimic.COST))
