"""What a recipe is, and what a person may set about one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tinydet.detectors.choice import BackboneKind
from tinydet.errors import InputError
from tinydet.report.summary import PaperTable, RunSummary
from tinydet.training.engine import DeviceChoice


@dataclass(frozen=True)
class RecipeOptions:
    """What the command line passes to a recipe; None means the recipe's own choice.

    Attributes:
        data: path of a data set, or `digits`.
        out: the run's folder; a run that was interrupted goes on from what lies there.
        seeds: one student of each variant a seed; the teacher is trained once, with the first.
        budget: scales the paper's number of iterations; 1 is the whole schedule.
        teacher_width, student_width: n of the `-1-n` networks.
        shorter_side: of the resized images, in pixels.
        anchor_sides, anchor_ratios: in pixels of the resized image; height divided by width.
        default_boxes: SSD's, as counted at 300x300.
        teacher: checkpoint of a teacher that is already trained.
        teacher_weights, student_weights: backbone weights to start from, such as ImageNet's or those of `pretrain`.
        frozen_blocks: of mobilenet_v1, in the networks that start from such weights: these blocks keep them.
        learning_rate: the paper's 0.001 from pretrained weights; from scratch ten times that.
        regions, mimic_weight: N and lambda of the mimic loss.
        per_entry: the mimic loss is divided by the entries of a region (Li et al. 2017), not summed as in Eq. 5.
        wider_ground_truth: folder of WIDER FACE's official ground truth; accuracy is then easy, medium and hard.
        latency_images: images timed for the milliseconds column; 0 leaves it out.
    """

    data: str
    out: Path
    seeds: tuple[int, ...] = (0,)
    budget: float = 1.0
    train_split: str | None = None
    test_split: str | None = None
    backbone: BackboneKind | None = None
    teacher_width: float | None = None
    student_width: float | None = None
    shorter_side: int | None = None
    anchor_sides: tuple[float, ...] | None = None
    anchor_ratios: tuple[float, ...] | None = None
    default_boxes: Literal[1917, 3000] | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    teacher: Path | None = None
    teacher_weights: Path | None = None
    student_weights: Path | None = None
    frozen_blocks: int = 0
    regions: int | None = None
    mimic_weight: float | None = None
    per_entry: bool = False
    quantizer_stride: float = 1.0
    device: DeviceChoice = "auto"
    latency_images: int = 20
    wider_ground_truth: Path | None = None
    command: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.budget < math.inf:
            raise InputError(f"budget {self.budget}: expected a number above 0; 1 is the paper's whole schedule")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise InputError(f"seeds {self.seeds}: expected at least one, each once")
        widths = ("teacher_width", "student_width")
        for name in (*widths, "batch_size", "learning_rate", "regions", "quantizer_stride"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name.replace('_', ' ')} {value}: expected a number above 0")
        for name, least in (("shorter_side", 16), ("mimic_weight", 0), ("latency_images", 0), ("frozen_blocks", 0)):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise InputError(f"{name.replace('_', ' ')} {value}: expected at least {least}")
        if self.frozen_blocks and not (self.teacher_weights or self.student_weights):
            raise InputError(
                f"frozen blocks {self.frozen_blocks}: random weights are not worth keeping; give --teacher-weights or "
                "--student-weights"
            )


NO_STUDENTS = (
    "student_width",
    "student_weights",
    "frozen_blocks",
    "default_boxes",
    "regions",
    "mimic_weight",
    "per_entry",
    "quantizer_stride",
)
"""What says nothing to a recipe that teaches nobody and has no SSD or MobileNet frozen in part."""


@dataclass(frozen=True)
class PaperRow:
    """One number of a paper, as `recipes` lists it."""

    row: str
    value: str


@dataclass(frozen=True)
class Recipe:
    """A table of a paper that one command makes.

    Attributes:
        name: `module.table`, what `tinydet run` takes.
        cost: what it takes, in words: at the whole budget, and at a small one.
        rows: the paper's numbers.
        says_nothing: names of options that the recipe has no use for.
    """

    name: str
    title: str
    paper: PaperTable | None
    cost: str
    rows: tuple[PaperRow, ...]
    run: Callable[[RecipeOptions], RunSummary]
    says_nothing: tuple[str, ...] = ()

    def refuse_what_says_nothing(self, options: RecipeOptions) -> None:
        """Before anything is opened.

        Raises:
            InputError: an option is set that the recipe has no use for.
        """
        for name in self.says_nothing:
            if getattr(options, name) != getattr(RecipeOptions, name):
                raise InputError(f"{name.replace('_', ' ')} {getattr(options, name)}: says nothing to {self.name}")
