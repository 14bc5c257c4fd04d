"""The whole chain on the built-in digits, on a CPU, in minutes: what `tinydet demo` runs.

    tinydet demo
    tinydet run digits --seeds 0,1,2 --out runs/digits

Cost: about ten minutes on two CPU cores. There is no paper's number: nobody else has this data set. What was
measured here is in docs/results.md.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tinydet.data.transforms import NO_AUGMENTATION
from tinydet.detectors import DetectorConfig, FasterRCNNConfig
from tinydet.detectors.choice import DetectorChoice
from tinydet.distill.mimic import MimicConfig
from tinydet.recipes.mimic_chain import run_mimic_chain
from tinydet.recipes.plan import MimicPlan, StudentVariant, TeacherVariant
from tinydet.recipes.recipe import Recipe
from tinydet.training.schedule import Schedule

_MIMIC = MimicConfig(regions=32, per_entry=True)  # as a sum (Eq. 5) it would outweigh detection a hundredfold


def _small(config: DetectorConfig) -> DetectorConfig:
    """Few candidates and regions: pictures of 160x208 pixels hold at most six digits."""
    assert isinstance(config, FasterRCNNConfig)
    proposals = replace(
        config.proposals, train_candidates=300, train_proposals=150, test_candidates=300, test_proposals=50, batch=64
    )
    return replace(
        config,
        proposals=proposals,
        regions=replace(config.regions, batch=16, positive_fraction=0.5, class_agnostic_boxes=True),
    )


_NETWORK = DetectorChoice(
    backbone="resnet18", shorter_side=160, anchor_sides=(24.0, 40.0, 64.0), anchor_ratios=(1.0, 1.6)
)
_PLAN = MimicPlan(
    name="digits",
    title="The whole chain on handwritten digits",
    paper=None,
    teacher=replace(_NETWORK, width=3),
    student=replace(_NETWORK, width=16),
    teachers=(
        TeacherVariant("teacher", "teacher, full precision"),
        TeacherVariant("teacher_quantized", "teacher, quantized", "fine-tuned"),
    ),
    students=(
        StudentVariant("scratch", "student, scratch"),
        StudentVariant("mimic", "student, mimic", _MIMIC),
        StudentVariant(
            "quantization_mimic",
            "student, Quantization Mimic",
            _MIMIC,
            teacher_quantized=True,
            student_quantized=True,
        ),
    ),
    schedule=Schedule(1500, 0.004, milestones=(0.75,)),
    batch_size=8,
    augment=NO_AUGMENTATION,
    configure=_small,
)

RECIPE = Recipe("digits", _PLAN.title, None, "about ten minutes on two CPU cores", (), partial(run_mimic_chain, _PLAN))
