"""`tinydet train` and `tinydet mimic`: one stage each, a checkpoint out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tinydet.cli import app
from tinydet.cli.option_records import with_records
from tinydet.cli.option_values import checked, one_of, whole_numbers
from tinydet.cli.starting_network import starting_network
from tinydet.cli.training_options import TEACHING, NetworkOptions, RunOptions, StudentOptions, TrainingOptions
from tinydet.cli.training_stage import open_splits, print_result, run_stage

if TYPE_CHECKING:
    from tinydet.distill.mimic import MimicConfig


@app.command()
@with_records
def train(run: RunOptions, network: NetworkOptions, training: TrainingOptions) -> None:
    """Train a detector on a labelled data set.

    `tinydet train --data photos/ --out runs/photos --width 16 --shorter-side 320 --iterations 2000
    --learning-rate 0.01`

    `tinydet train --data VOCdevkit --out runs/teacher --weights imagenet`

    `tinydet train --data BCCD --out runs/big --detector faster_rcnn_fpn --backbone resnet50 --weights detectron2`

    Several GPUs: the same command after `torchrun --nproc-per-node 4 -m`.
    """
    from tinydet.training.steps import DetectionStep

    selection = open_splits(run.data, run.train_split, run.test_split)
    start = starting_network(network, selection.dataset.classes, run.seed)
    print_result(run_stage(DetectionStep(start.detector), start, selection, run, training), run.json_file)


@dataclass(frozen=True)
class MimicOptions:
    """Whose features are matched, and how."""

    teacher: Annotated[
        Path,
        typer.Option(metavar="CHECKPOINT", help="The trained teacher, with Q or without.", rich_help_panel=TEACHING),
    ]
    weight: Annotated[
        float, typer.Option("--lambda", metavar="X", help="Weight of the mimic loss.", rich_help_panel=TEACHING)
    ] = 1.0
    regions: Annotated[
        int, typer.Option(metavar="N", help="Regions of each image; the papers: 128 or 2000.", rich_help_panel=TEACHING)
    ] = 128
    region_source: Annotated[
        str,
        typer.Option(
            metavar="WHOSE", help="teacher or student: whose proposals; or objects.", rich_help_panel=TEACHING
        ),
    ] = "teacher"
    per_entry: Annotated[
        bool,
        typer.Option("--per-entry", help="Divide each distance by its entries (Li et al.).", rich_help_panel=TEACHING),
    ] = False
    region_size: Annotated[
        int, typer.Option(metavar="N", help="Bins along each side of a pooled region.", rich_help_panel=TEACHING)
    ] = 7
    maps: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Which of several maps, 0 being the finest; by default all, or those that SSD has for Q.",
            rich_help_panel=TEACHING,
        ),
    ] = None
    features_only: Annotated[
        bool,
        typer.Option(
            "--features-only",
            help="The mimic loss alone, for the backbone: the first of two stages; then `train --start`.",
            rich_help_panel=TEACHING,
        ),
    ] = False


@app.command()
@with_records
def mimic(run: RunOptions, teaching: MimicOptions, network: StudentOptions, training: TrainingOptions) -> None:
    """Train a student that learns to match a teacher's features in regions of interest.

    Two switches say which method it is: Q on the teacher (`train --start TEACHER --quantizer uniform` makes one) and
    Q on the student (`--quantizer`). Neither: Li et al. 2017; both: Quantization Mimic.

    `tinydet mimic --data BCCD --out runs/student --teacher runs/quantized_teacher --quantizer uniform --width 16`
    """
    from tinydet.distill.frozen import load_teacher
    from tinydet.distill.steps import FeatureMimicStep, MimicStep
    from tinydet.distill.teacher import Teacher

    selection = open_splits(run.data, run.train_split, run.test_split)
    config = mimic_config(teaching)
    teacher = Teacher(load_teacher(teaching.teacher, selection.dataset.classes), config.regions)
    start = starting_network(network, selection.dataset.classes, run.seed)
    kind = FeatureMimicStep if teaching.features_only else MimicStep
    step = kind(start.detector, teacher, config)
    result = run_stage(step, start, selection, run, training, teaching.teacher, validated=not teaching.features_only)
    print_result(result, run.json_file)


def mimic_config(teaching: MimicOptions) -> MimicConfig:
    """The mimic loss that the options ask for.

    Raises:
        InputError: a value is refused.
    """
    from tinydet.distill.mimic import MimicConfig

    return checked(
        lambda: MimicConfig(
            teaching.weight,
            teaching.regions,
            one_of("region source", teaching.region_source, "teacher", "student", "objects"),
            teaching.region_size,
            teaching.per_entry,
            whole_numbers("maps", teaching.maps),
        )
    )
