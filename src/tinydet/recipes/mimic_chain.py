"""The chain that every table of teachers and students is a part of: teacher, quantized teacher, students, one table.

Wei et al. 2018, section 3.3: a full-precision teacher is trained; Q is put on its last feature map and it is
fine-tuned; students learn to match it in regions of interest, or learn its predictions or whole maps. One teacher
serves all students of a run, and each variant has one student a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from tinydet.backbones.pretrained import load_pretrained, pretrained_preprocessing
from tinydet.data.ssd_augment import SSDAugmentConfig
from tinydet.detectors import DetectorConfig, build_detector
from tinydet.detectors.choice import DetectorChoice, detector_config
from tinydet.detectors.layer_channels import rebuilt
from tinydet.distill.feature_steps import FeatureStep
from tinydet.distill.frozen import load_teacher
from tinydet.distill.logit_steps import LogitStep
from tinydet.distill.logits import LogitConfig
from tinydet.distill.mimic import MimicConfig
from tinydet.distill.steps import FeatureMimicStep, MimicStep
from tinydet.distill.teacher import Teacher
from tinydet.errors import InputError
from tinydet.quantizers import PowerOfTwoQuantizerConfig, QuantizerConfig, UniformQuantizerConfig
from tinydet.recipes.figures import variant_figures
from tinydet.recipes.plan import MimicPlan, StudentVariant, TeacherVariant
from tinydet.recipes.recipe import Recipe, RecipeOptions
from tinydet.recipes.workbench import METRICS, Workbench
from tinydet.report.page import write_report
from tinydet.report.summary import RunSummary, SeedResult, VariantSummary, write_summary
from tinydet.training.checkpoint import load_checkpoint, save_checkpoint
from tinydet.training.schedule import Schedule
from tinydet.training.steps import DetectionStep

T = TypeVar("T")

FINE_TUNE_SHARE = 0.25
"""The quantized teacher's fine-tuning, as a share of the schedule, at its last learning rate. The paper names none."""

FIRST_STAGE_SHARE = 0.5
"""The reproduction's first stage (mimic loss alone), as a share of the schedule. The reproduction names none."""


def recipe_of(plan: MimicPlan, cost: str) -> Recipe:
    """What `tinydet run` takes."""
    return Recipe(plan.name, plan.title, plan.paper, cost, plan.paper_rows(), partial(run_mimic_chain, plan))


def run_mimic_chain(plan: MimicPlan, options: RecipeOptions) -> RunSummary:
    """Make a table: train what is still to be trained, measure, and write `summary.json` and `report.html`."""
    chain = MimicChain(plan, options)
    chain.check()
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
            default_boxes=options.default_boxes or choice.default_boxes,
            normalization="frozen" if weights else choice.normalization,
            frozen_blocks=options.frozen_blocks if weights else 0,
        )

    def check(self) -> None:
        """Refuse before hours of training what could not be trained after them.

        Raises:
            InputError: weights do not fit, or a teacher and a student do not go together.
        """
        options, seed = self.options, self.options.seeds[0]
        if options.teacher:
            teacher = load_teacher(options.teacher, self.bench.classes)
        else:
            teacher = self._fresh(
                self.config(self.teacher_choice, None, options.teacher_weights), options.teacher_weights, seed
            )
        for variant in self.plan.students:
            if variant.taught:
                self._step(variant, self._start(variant, seed), teacher)
            elif not variant.prune:
                self._start(variant, seed)

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
        chosen = _checked(lambda: detector_config(replace(choice, quantizer=quantizer), self.bench.classes))
        config = self.plan.configure(chosen)
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
        weights = self._weights(variant)

        def start() -> Any:
            return self._start(variant, seed)

        if not variant.taught:
            return self._train_student(stage, lambda: DetectionStep(start()), seed, weights)
        folder = self.teacher_of(variant)
        if not variant.two_stage:
            return self._train_student(
                stage, lambda: self._step(variant, start(), load_checkpoint(folder)[0]), seed, weights
            )
        first = self._train_student(
            f"{stage}_features",
            lambda: self._step(variant, start(), load_checkpoint(folder)[0]),
            seed,
            weights,
            FIRST_STAGE_SHARE,
        )
        return self._train_student(stage, lambda: DetectionStep(load_checkpoint(first)[0]), seed, weights)

    def _weights(self, variant: StudentVariant) -> Path | None:
        """What a student's backbone starts from."""
        return None if variant.change else self.options.student_weights

    def _start(self, variant: StudentVariant, seed: int) -> Any:
        """A student before its training."""
        quantizer, weights = variant.quantizer or self.quantizer, self._weights(variant)
        choice = variant.change(self.student_choice) if variant.change else self.student_choice
        return self._fresh(
            self.config(choice, quantizer if variant.student_quantized else None, weights), weights, seed
        )

    def _step(self, variant: StudentVariant, student: Any, teacher: Any) -> Any:
        """What trains a taught student, or its features alone where that is the first of two stages."""
        distill = variant.distill
        if isinstance(distill, LogitConfig):
            return LogitStep(student, teacher, distill)
        if distill is not None:
            return _checked(lambda: FeatureStep(student, teacher, distill))
        assert variant.mimic is not None
        mimic = self._mimic(variant, variant.mimic)
        forgetful = (
            {"memory_bytes": 0} if isinstance(self.plan.augment, SSDAugmentConfig) else {}
        )  # no view comes twice
        kind = FeatureMimicStep if variant.two_stage else MimicStep
        return kind(student, Teacher(teacher, mimic.regions, **forgetful), mimic)

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

    def _fresh(self, config: DetectorConfig, weights: Path | None, seed: int) -> Any:
        """A detector with random weights that depend on `seed` alone, or with a backbone's trained ones."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            detector = _checked(lambda: build_detector(config))
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
        whose = self.plan.schedule_of
        return f"{self.options.budget:g} of {whose}: {schedule.iterations} steps of {schedule.batch_size}"

    def settings(self) -> dict[str, str]:
        schedule = self.schedule(self.options.student_weights)
        trained = self.options.teacher
        settings = {
            "teacher": f"that of {trained}" if trained else _network(self.teacher_choice, self.options.teacher_weights),
            "student": _network(self.student_choice, self.options.student_weights),
            "learning rate": f"{schedule.learning_rate:g}",
        }
        mimics = [self._mimic(variant, variant.mimic) for variant in self.plan.students if variant.mimic]
        if mimics:
            per_entry = {mimic.per_entry for mimic in mimics} == {True}
            settings["mimic loss"] = "divided by a region's entries" if per_entry else "summed over a region (Eq. 5)"
        return settings | {"Q": f"codes 0, {self.quantizer.stride:g}, {2 * self.quantizer.stride:g}, ..."}


def with_quantizer(detector: Any, quantizer: QuantizerConfig) -> Any:
    """The same detector and weights, with Q on its feature maps."""
    return rebuilt(detector, replace(detector.config, quantizer=quantizer))


def metric_names(measured: tuple[str, ...], paper: Iterable[Mapping[str, float | None]]) -> tuple[str, ...]:
    """What was measured, then the metrics in which the paper's numbers are and ours are not."""
    theirs = {name for numbers in paper for name in numbers}
    return (*measured, *(name for name in METRICS if name in theirs and name not in measured))


def _network(choice: DetectorChoice, weights: Path | None) -> str:
    size = f"{choice.shorter_side} pixels square" if choice.detector == "ssd" else f"shorter side {choice.shorter_side}"
    start = f"from {weights}" if weights else "from random weights"
    frozen = f", {choice.frozen_blocks} blocks frozen" if choice.frozen_blocks else ""
    return f"{choice.backbone}-1-{choice.width:g} {choice.detector}, {size}, {start}{frozen}"


def _checked(make: Callable[[], T]) -> T:
    """What `make` gives; networks that cannot be, or cannot be put together, are the options' mistake."""
    try:
        return make()
    except ValueError as error:
        raise InputError(str(error)) from error
