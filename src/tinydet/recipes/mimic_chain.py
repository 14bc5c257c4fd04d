"""The chain that every table of Quantization Mimic is a part of: teacher, quantized teacher, students, and one table.

Wei et al. 2018, section 3.3: a full-precision teacher is trained; Q is put on its last feature map and it is
fine-tuned; students learn to match it in regions of interest. One teacher serves all students of a run, and each
variant has one student a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tinydet.backbones.pretrained import load_pretrained, pretrained_preprocessing
from tinydet.data.transforms import AugmentConfig
from tinydet.detectors import DetectorConfig, build_detector
from tinydet.detectors.choice import DetectorChoice, detector_config
from tinydet.detectors.layer_channels import rebuilt
from tinydet.distill.frozen import load_teacher
from tinydet.distill.mimic import MimicConfig
from tinydet.distill.steps import FeatureMimicStep, MimicStep
from tinydet.distill.teacher import Teacher
from tinydet.quantizers import PowerOfTwoQuantizerConfig, QuantizerConfig, UniformQuantizerConfig
from tinydet.recipes.figures import variant_figures
from tinydet.recipes.recipe import RecipeOptions
from tinydet.recipes.workbench import METRICS, Workbench
from tinydet.report.page import write_report
from tinydet.report.summary import PaperTable, RunSummary, SeedResult, VariantSummary, write_summary
from tinydet.training.checkpoint import load_checkpoint, save_checkpoint
from tinydet.training.schedule import Schedule
from tinydet.training.steps import DetectionStep

FINE_TUNE_SHARE = 0.25
"""The quantized teacher's fine-tuning, as a share of the schedule, at its last learning rate. The paper names none."""

FIRST_STAGE_SHARE = 0.5
"""The reproduction's first stage (mimic loss alone), as a share of the schedule. The reproduction names none."""


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
    """A row of the table that is a student; the two switches and the mimic loss say which method it is.

    Attributes:
        mimic: None for a student without a teacher.
        two_stage: the reproduction's schedule: the backbone by mimic loss alone first, then plain training.
        quantizer: this row's Q, of teacher and student, instead of the run's.
        regions: this row's N, whatever the run's.
        change: makes another network of the plan's student; it starts from random weights.
        prune: makes the student of the trained, full-precision teacher (the third argument is the seed), instead of
            building it; it is then trained as the others are.
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

    def __post_init__(self) -> None:
        if self.prune and (self.mimic or self.change or self.student_quantized):
            raise ValueError(f"{self.name}: a student that is a pruned teacher is neither another network nor taught")


@dataclass(frozen=True)
class MimicPlan:
    """One table.

    Attributes:
        teacher, student: the networks, before the options of a run change them.
        schedule: the paper's, of the teacher and of each student.
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
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    configure: Callable[[DetectorConfig], DetectorConfig] = lambda config: config
    notes: tuple[str, ...] = ()
    complexity_input_hw: tuple[int, int] | None = None
    finish: Callable[[MimicChain, RunSummary], RunSummary] = lambda chain, summary: summary


def run_mimic_chain(plan: MimicPlan, options: RecipeOptions) -> RunSummary:
    """Make a table: train what is still to be trained, measure, and write `summary.json` and `report.html`."""
    chain = MimicChain(plan, options)
    variants = [chain.teacher_row(variant) for variant in plan.teachers]
    variants += [chain.student_row(variant) for variant in plan.students]
    summary = RunSummary(
        recipe=plan.name,
        title=plan.title,
        asked=chain.bench.asked(chain.budget_in_words(), chain.settings()),
        protocol=chain.bench.protocol_in_words,
        metric_names=metric_names(chain.bench.metrics, (variant.paper for variant in variants)),
        variants=chain.bench.timed(variants),
        paper=plan.paper,
        notes=plan.notes,
    )
    summary = plan.finish(chain, summary)
    write_summary(summary, options.out)
    chain.bench.save_pictures()
    write_report(options.out)
    return summary


class MimicChain:
    """One run of a plan: each method trains what it needs and is not yet there."""

    def __init__(self, plan: MimicPlan, options: RecipeOptions) -> None:
        self.plan, self.options = plan, options
        self.bench = Workbench(options)
        self.quantizer = UniformQuantizerConfig(options.quantizer_stride)
        width = options.teacher_width, options.student_width
        self.teacher_choice = self._chosen(plan.teacher, width[0], options.teacher_weights)
        self.student_choice = self._chosen(plan.student, width[1], options.student_weights)
        self._teachers: dict[QuantizerConfig | None, Path] = {}

    def _chosen(self, choice: DetectorChoice, width: float | None, weights: Path | None) -> DetectorChoice:
        options = self.options
        return replace(
            choice,
            backbone=options.backbone or choice.backbone,
            width=width or choice.width,
            shorter_side=options.shorter_side or choice.shorter_side,
            anchor_sides=options.anchor_sides or choice.anchor_sides,
            anchor_ratios=options.anchor_ratios or choice.anchor_ratios,
            normalization="frozen" if weights else choice.normalization,
        )

    def schedule(self, weights: Path | None, share: float = 1.0) -> Schedule:
        """The paper's, scaled by the budget; from scratch ten times its learning rate, after a warm-up."""
        whole = self.plan.schedule.scaled(self.options.budget * share)
        rate = self.options.learning_rate or whole.learning_rate * (1 if weights else 10)
        return replace(
            whole,
            learning_rate=rate,
            warmup_iterations=min(500, whole.iterations // 10),
            batch_size=self.options.batch_size or self.plan.batch_size,
            clip_norm=10.0,
        )

    def config(self, choice: DetectorChoice, quantizer: QuantizerConfig | None, weights: Path | None) -> DetectorConfig:
        config = self.plan.configure(detector_config(replace(choice, quantizer=quantizer), self.bench.classes))
        if not weights:
            return config
        scaled = pretrained_preprocessing(config.preprocessing, config.backbone, weights)
        return replace(config, preprocessing=scaled)

    # Teachers

    def teacher(self, quantizer: QuantizerConfig | None) -> Path:
        """The folder of the trained teacher, full-precision or fine-tuned with Q."""
        if quantizer not in self._teachers:
            self._teachers[quantizer] = (
                self._full_teacher() if quantizer is None else self._quantized_teacher(quantizer)
            )
        return self._teachers[quantizer]

    def _full_teacher(self) -> Path:
        if self.options.teacher:
            load_teacher(self.options.teacher, self.bench.classes)  # refused now rather than after hours
            return self.options.teacher
        return self._scratch_teacher("teacher", self.teacher_choice, self.options.teacher_weights)

    def _scratch_teacher(self, stage: str, choice: DetectorChoice, weights: Path | None) -> Path:
        seed = self.options.seeds[0]
        return self.bench.train(
            stage,
            lambda: DetectionStep(self._fresh(self.config(choice, None, weights), weights, seed)),
            self.schedule(weights),
            seed,
            self.plan.augment,
        )

    def _quantized_teacher(self, quantizer: QuantizerConfig) -> Path:
        full, weights = self.teacher(None), self.options.teacher_weights
        whole = self.schedule(weights, FINE_TUNE_SHARE)
        last_rate = whole.learning_rate_at(whole.iterations) if whole.milestones else whole.learning_rate
        return self.bench.train(
            f"teacher_{self._name(quantizer)}",
            lambda: DetectionStep(with_quantizer(load_checkpoint(full)[0], quantizer)),
            replace(whole, learning_rate=last_rate, milestones=()),
            self.options.seeds[0],
            self.plan.augment,
        )

    def teacher_of(self, variant: StudentVariant) -> Path:
        """The folder of the teacher that a student has."""
        return self.teacher((variant.quantizer or self.quantizer) if variant.teacher_quantized else None)

    def teacher_row(self, variant: TeacherVariant) -> VariantSummary:
        quantizer = variant.quantizer or self.quantizer
        if variant.change:
            folder = self._scratch_teacher(variant.name, variant.change(self.teacher_choice), None)
        else:
            folder = self.teacher(quantizer if variant.quantized == "fine-tuned" else None)
        change = (lambda d: with_quantizer(d, quantizer)) if variant.quantized == "inference" else None
        result = self.bench.measure(variant.name, folder, self.options.seeds[0], change)
        return self._row(variant.name, variant.title, folder, (result,), variant.paper)

    def _name(self, quantizer: QuantizerConfig) -> str:
        """Of the stage that fine-tunes a teacher with this Q."""
        match quantizer:
            case PowerOfTwoQuantizerConfig():
                return "power_of_two"
            case UniformQuantizerConfig(stride):
                return "quantized" if stride == self.quantizer.stride else f"quantized_stride_{stride:g}"

    # Students

    def student_row(self, variant: StudentVariant) -> VariantSummary:
        results, first = [], None
        for seed in self.options.seeds:
            folder = self.student(variant, seed)
            first = first or folder
            results.append(self.bench.measure(variant.name, folder, seed))
        assert first is not None
        return self._row(variant.name, variant.title, first, tuple(results), variant.paper)

    def student(self, variant: StudentVariant, seed: int) -> Path:
        """The folder of a trained student."""
        stage = f"{variant.name}/seed{seed}"
        if variant.prune:
            return self._pruned_student(variant.prune, stage, seed)
        weights = None if variant.change else self.options.student_weights
        quantizer = variant.quantizer or self.quantizer
        choice = variant.change(self.student_choice) if variant.change else self.student_choice
        config = self.config(choice, quantizer if variant.student_quantized else None, weights)

        def start() -> Any:
            return self._fresh(config, weights, seed)

        if variant.mimic is None:
            return self._train_student(stage, lambda: DetectionStep(start()), seed, weights)
        mimic = self._mimic(variant, variant.mimic)
        teacher_folder = self.teacher_of(variant)
        if not variant.two_stage:
            return self._train_student(
                stage, lambda: MimicStep(start(), self._taught_by(teacher_folder, mimic), mimic), seed, weights
            )
        first = self._train_student(
            f"{stage}_features",
            lambda: FeatureMimicStep(start(), self._taught_by(teacher_folder, mimic), mimic),
            seed,
            weights,
            FIRST_STAGE_SHARE,
        )
        return self._train_student(stage, lambda: DetectionStep(load_checkpoint(first)[0]), seed, weights)

    def _pruned_student(self, prune: Callable[[MimicChain, Any, int], Any], stage: str, seed: int) -> Path:
        start = self.options.out / f"{stage}_pruned"
        if not start.is_dir():
            full, _ = load_checkpoint(self.teacher(None))
            save_checkpoint(start, prune(self, full, seed))
        weights = self.options.student_weights
        return self._train_student(stage, lambda: DetectionStep(load_checkpoint(start)[0]), seed, weights)

    def _train_student(
        self, stage: str, make_step: Callable[[], Any], seed: int, weights: Path | None, share: float = 1.0
    ) -> Path:
        return self.bench.train(stage, make_step, self.schedule(weights, share), seed, self.plan.augment)

    def _mimic(self, variant: StudentVariant, config: MimicConfig) -> MimicConfig:
        options = self.options
        return replace(
            config,
            regions=variant.regions or options.regions or config.regions,
            weight=config.weight if options.mimic_weight is None else options.mimic_weight,
            per_entry=options.per_entry or config.per_entry,
        )

    def _taught_by(self, folder: Path, mimic: MimicConfig) -> Teacher:
        return Teacher(load_checkpoint(folder)[0], mimic.regions)

    def _fresh(self, config: DetectorConfig, weights: Path | None, seed: int) -> Any:
        """A detector with random weights that depend on `seed` alone, or with a backbone's trained ones."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            detector = build_detector(config)
        if weights:
            load_pretrained(detector, weights)
        return detector

    # The table

    def _row(
        self, name: str, title: str, folder: Path, results: tuple[SeedResult, ...], paper: dict[str, float | None]
    ) -> VariantSummary:
        figures = variant_figures(
            folder, self.bench.test_samples, self.bench.packed(name), self.plan.complexity_input_hw
        )
        return VariantSummary(
            name,
            title,
            seeds=results,
            parameters=figures.parameters,
            multiply_adds=figures.multiply_adds,
            input_hw=figures.input_hw,
            bytes_on_disk=figures.bytes_on_disk,
            paper=paper,
            checkpoint=str(folder.relative_to(self.options.out)) if folder.is_relative_to(self.options.out) else None,
            blocks=figures.blocks,
        )

    def budget_in_words(self) -> str:
        schedule = self.schedule(self.options.teacher_weights)
        return f"{self.options.budget:g} of the paper's schedule: {schedule.iterations} steps of {schedule.batch_size}"

    def settings(self) -> dict[str, str]:
        schedule = self.schedule(self.options.student_weights)
        return {
            "teacher": _network(self.teacher_choice, self.options.teacher_weights),
            "student": _network(self.student_choice, self.options.student_weights),
            "learning rate": f"{schedule.learning_rate:g}",
            "mimic loss": "divided by a region's entries" if self.options.per_entry else "summed over a region (Eq. 5)",
            "Q": f"codes 0, {self.quantizer.stride:g}, {2 * self.quantizer.stride:g}, ...",
        }


def with_quantizer(detector: Any, quantizer: QuantizerConfig) -> Any:
    """The same detector and weights, with Q on its feature maps."""
    return rebuilt(detector, replace(detector.config, quantizer=quantizer))


def metric_names(measured: tuple[str, ...], paper: Iterable[Mapping[str, float | None]]) -> tuple[str, ...]:
    """What was measured, then the metrics in which the paper's numbers are and ours are not."""
    theirs = {name for numbers in paper for name in numbers}
    return (*measured, *(name for name in METRICS if name in theirs and name not in measured))


def _network(choice: DetectorChoice, weights: Path | None) -> str:
    start = f"from {weights}" if weights else "from random weights"
    return f"{choice.backbone}-1-{choice.width:g} {choice.detector}, shorter side {choice.shorter_side}, {start}"
