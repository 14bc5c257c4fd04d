"""What a table of teachers and students consists of: networks, rows, one schedule. `mimic_chain.py` makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tinydet.data.transforms import Augment, AugmentConfig
from tinydet.detectors import DetectorConfig
from tinydet.detectors.choice import DetectorChoice
from tinydet.distill.features import FeatureLossConfig
from tinydet.distill.logits import LogitConfig
from tinydet.distill.mimic import MimicConfig
from tinydet.quantizers import QuantizerConfig
from tinydet.recipes.recipe import PaperRow
from tinydet.recipes.workbench import METRICS
from tinydet.report import formats
from tinydet.report.summary import PaperTable, RunSummary
from tinydet.training.schedule import Schedule

if TYPE_CHECKING:
    from tinydet.recipes.mimic_chain import MimicChain


@dataclass(frozen=True)
class TeacherVariant:
    """A row of the table that is a teacher.

    Attributes:
        quantized: by fine-tuning with Q, at inference only (its weights untouched), or not.
        paper: its numbers, fractions of 1.
        quantizer: this row's Q, instead of the run's.
        change: makes another network of the plan's teacher. It is trained for comparison, from random weights, and
            teaches nobody.
    """

    name: str
    title: str
    quantized: Literal["no", "fine-tuned", "inference"] = "no"
    paper: dict[str, float | None] = field(default_factory=dict)
    quantizer: QuantizerConfig | None = None
    change: Callable[[DetectorChoice], DetectorChoice] | None = None

    def __post_init__(self) -> None:
        if self.change and self.quantized != "no":
            raise ValueError(f"{self.name}: a changed teacher is trained in full precision only")


@dataclass(frozen=True)
class StudentVariant:
    """A row of the table that is a student. What it learns from its teacher, and the two switches, say which method it
    is; a student that learns nothing from one is trained from the truth alone.

    Attributes:
        mimic: the teacher's features in regions of interest.
        two_stage: the reproduction's schedule: the backbone by mimic loss alone first, then plain training.
        quantizer: this row's Q, of teacher and student, instead of the run's.
        regions: this row's N, whatever the run's.
        change: makes another network of the plan's student; it starts from random weights.
        prune: makes the student of the trained, full-precision teacher (the third argument is the seed), instead of
            building it; it is then trained as the others are.
        distill: the teacher's predictions, or its whole maps, instead of a mimic loss.
    """

    name: str
    title: str
    mimic: MimicConfig | None = None
    teacher_quantized: bool = False
    student_quantized: bool = False
    two_stage: bool = False
    quantizer: QuantizerConfig | None = None
    paper: dict[str, float | None] = field(default_factory=dict)
    change: Callable[[DetectorChoice], DetectorChoice] | None = None
    regions: int | None = None
    prune: Callable[[MimicChain, Any, int], Any] | None = None
    distill: LogitConfig | FeatureLossConfig | None = None

    def __post_init__(self) -> None:
        if self.prune and (self.taught or self.change or self.student_quantized):
            raise ValueError(f"{self.name}: a student that is a pruned teacher is neither another network nor taught")
        if self.mimic and self.distill:
            raise ValueError(f"{self.name}: a student either mimics features in regions or is distilled from others")
        if self.two_stage and not self.mimic:
            raise ValueError(f"{self.name}: the first of two stages is a mimic loss alone, and there is none")

    @property
    def taught(self) -> bool:
        return self.mimic is not None or self.distill is not None


@dataclass(frozen=True)
class MimicPlan:
    """One table.

    Attributes:
        teacher, student: the networks, before the options of a run change them.
        schedule: of the teacher and of each student, from pretrained weights.
        schedule_of: whose schedule that is, as the report says it.
        complexity_input_hw: the size that multiply-adds are counted at; None: that of the first test image.
        finish: adds to the summary what this table alone has.
    """

    name: str
    title: str
    paper: PaperTable | None
    teacher: DetectorChoice
    student: DetectorChoice
    teachers: tuple[TeacherVariant, ...]
    students: tuple[StudentVariant, ...]
    schedule: Schedule
    batch_size: int = 2
    augment: Augment = field(default_factory=AugmentConfig)
    configure: Callable[[DetectorConfig], DetectorConfig] = lambda config: config
    notes: tuple[str, ...] = ()
    complexity_input_hw: tuple[int, int] | None = None
    finish: Callable[[MimicChain, RunSummary], RunSummary] = lambda chain, summary: summary
    schedule_of: str = "the paper's schedule"

    def paper_rows(self) -> tuple[PaperRow, ...]:
        """The paper's numbers, as `tinydet recipes` lists them."""
        variants: tuple[TeacherVariant | StudentVariant, ...] = (*self.teachers, *self.students)
        return tuple(PaperRow(variant.title, _in_words(variant.paper)) for variant in variants if variant.paper)


def _in_words(paper: Mapping[str, float | None]) -> str:
    found = (value for name in METRICS if (value := paper.get(name)) is not None)
    accuracies = " / ".join(f"{100 * value:.2f}".removesuffix("0") for value in found)
    multiply_adds, latency_ms = paper.get("multiply_adds"), paper.get("latency_ms")
    return (
        accuracies
        + (f"; {formats.count(multiply_adds)} multiply-adds" if multiply_adds else "")
        + (f"; {latency_ms:g} ms" if latency_ms else "")
    )
