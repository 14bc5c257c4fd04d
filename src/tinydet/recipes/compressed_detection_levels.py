"""A trained detector, pruned by one share after another: AP50, bytes on disk and milliseconds of each level.

The dense detector is trained once a seed and every level is pruned from it, never from another level. What was measured
of a level is kept in the run's folder, so that a run that was stopped goes on with the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tinydet.complexity import measure_complexity
from tinydet.compression import compressed_run
from tinydet.config import from_plain, to_plain
from tinydet.data.transforms import AugmentConfig
from tinydet.distill.frozen import load_teacher
from tinydet.errors import InputError
from tinydet.export import export_detector
from tinydet.export.agreement import Tolerance
from tinydet.files import read_json, write_json
from tinydet.prune.fine_tuning import MaskedStep
from tinydet.prune.layers import Block, layer_sparsities, sparsity_of
from tinydet.prune.masks import PruneConfig, prune
from tinydet.prune.remove import RemovalReport, remove_channels
from tinydet.recipes.compressed_detection_start import Start, dense_start
from tinydet.recipes.recipe import RecipeOptions
from tinydet.recipes.workbench import Workbench
from tinydet.report.summary import BlockFigures, PaperTable, SeedResult, VariantSummary
from tinydet.training.checkpoint import checkpoint_in, load_checkpoint
from tinydet.training.schedule import Schedule
from tinydet.training.steps import DetectionStep

DENSE = "dense"
METRIC = "AP50"

SCHEDULE = Schedule(10_000, milestones=(0.75,))
"""The paper names no schedule; its data set has about 1,000 training instances."""

_BATCH_SIZE = 2
_PROOF_IMAGES = 2
_MEASURED = Tolerance(other_share=1.0)
"""Of a level: a pruned head gives many boxes all but equal scores, and the last bit decides which of them NMS keeps.
What differs is said in the notes. The dense detector's file must detect the same."""
_TIMED_BYTES = 1 << 29  # of packed files that are held in memory to be timed side by side


@dataclass(frozen=True)
class Line:
    """A line of the plots: a part of the detector, pruned by more and more.

    Attributes:
        percents: that are pruned.
        removed: whole channels (L2 norm) are taken out of the network; otherwise single weights (L1 norm) become zero.
        paper: AP50 as a fraction of 1 and bytes, by per cent.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]
    percents: tuple[int, ...]
    removed: bool = False
    paper: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    def config(self, percent: int) -> PruneConfig:
        if self.removed:
            return PruneConfig(percent / 100, self.blocks, "ln", structured=True, n=2)
        return PruneConfig(percent / 100, self.blocks)

    def variant(self, percent: int) -> str:
        return f"{self.name}_{percent}"

    def prune(self, dense: Any, percent: int) -> tuple[Any, float]:
        """The pruned detector, and the share of these blocks' weights (or of their channels) that went.

        Raises:
            InputError: a layer would be left without any channel.
        """
        if not self.removed:
            pruned, masked = prune(dense, self.config(percent))
            return pruned, masked.sparsity
        smaller, report = remove_channels(dense, self.config(percent))
        return smaller, _removed_share(report, self.blocks)


@dataclass(frozen=True)
class SparsityPlan:
    """One table or figure.

    Attributes:
        paper_dense: AP50 and bytes of the detector before.
        fine_tune_share: of the schedule, by which every level is trained on, zeros staying zeros; 0: not at all.
        timed: whether milliseconds are measured.
    """

    name: str
    title: str
    paper: PaperTable
    lines: tuple[Line, ...]
    paper_dense: tuple[float, float]
    notes: tuple[str, ...]
    fine_tune_share: float = 0.0
    timed: bool = False


@dataclass(frozen=True)
class LevelFigures:
    """Attributes:
    pruned_share: of the pruned blocks' weights, or of their channels where these were taken out.
    zero_share: of all weights of the detector that is left.
    other_share: of the detections on the images that the packed file was compared on, those that it has not alike.
    """

    parameters: int
    multiply_adds: int
    input_hw: tuple[int, int]
    bytes_on_disk: int
    pruned_share: float
    zero_share: float
    blocks: dict[str, BlockFigures]
    other_share: float = 0.0


class _Bench(Workbench):
    """Measures as the paper does, whose AP50 is COCO's."""

    def __init__(self, options: RecipeOptions) -> None:
        super().__init__(options)
        if self.protocol != "wider":
            self.protocol, self.metrics = "coco", (METRIC,)
            self.protocol_in_words = "COCO: AP at IoU 0.5 (AP50); a class's own AP is the mean over IoU 0.5 to 0.95"

    def show_only(self, names: Iterable[str]) -> None:
        """Pictures of every level would fill the page."""
        self._pictured = {name: self._pictured[name] for name in names if name in self._pictured}


class SparsityRun:
    """One run of a plan: each method does what is still to be done.

    Attributes:
        remarks: sentences on levels that this network cannot have, or whose file detects otherwise.
    """

    def __init__(self, plan: SparsityPlan, options: RecipeOptions) -> None:
        if options.teacher and not plan.fine_tune_share and len(options.seeds) > 1:
            raise InputError("--teacher gives one detector, and pruning it has no chance in it: give one seed")
        self.plan, self.options = plan, options
        self.bench = _Bench(options)
        self.remarks: list[str] = []
        self._dense: dict[int, tuple[Path, Any, Any]] = {}  # by seed: folder, detector, what the checkpoint says

    # The dense detector

    @cached_property
    def start(self) -> Start:
        return dense_start(self.options, self.bench.classes)

    def schedule(self, share: float = 1.0) -> Schedule:
        """The whole schedule, scaled by the budget; from random weights ten times its learning rate."""
        whole = SCHEDULE.scaled(self.options.budget * share)
        pretrained = self.options.teacher is None and self.start.weights is not None
        return replace(
            whole,
            learning_rate=self.options.learning_rate or whole.learning_rate * (1 if pretrained else 10),
            warmup_iterations=min(500, whole.iterations // 10),
            batch_size=self.options.batch_size or _BATCH_SIZE,
            clip_norm=10.0,
        )

    def dense(self, seed: int) -> tuple[Path, Any, Any]:
        """The dense detector, trained now if it is not there: its folder, itself, and what its checkpoint says."""
        if seed not in self._dense:
            folder = self.options.teacher or self.bench.train(
                f"{DENSE}/seed{seed}",
                lambda: DetectionStep(self.start.build(seed)),
                self.schedule(),
                seed,
                AugmentConfig(),
            )
            if self.options.teacher:
                load_teacher(folder, self.bench.classes)  # refused now rather than after measuring
            self._check_same(folder, seed)
            self._dense[seed] = (folder, *load_checkpoint(folder))
        return self._dense[seed]

    def _check_same(self, folder: Path, seed: int) -> None:
        """What is kept here was measured of this very detector.

        Raises:
            InputError: of another.
        """
        with open(checkpoint_in(folder) / "model.safetensors", "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        kept = self.options.out / "levels" / f"{DENSE}_seed{seed}.sha256.json"
        if not kept.is_file():
            write_json(kept, digest)
        if read_json(kept) != digest:
            raise InputError(f"{self.options.out}: holds levels of another dense detector; use another folder")

    def dense_row(self) -> VariantSummary:
        first = self.options.seeds[0]
        folders = {seed: self.dense(seed)[0] for seed in self.options.seeds}
        seeds = tuple(self.bench.measure(DENSE, folder, seed) for seed, folder in folders.items())
        ap50, size = self.plan.paper_dense
        figures = self._figures(DENSE, lambda: (*self.dense(first)[1:], 0.0))
        return self._summary(DENSE, "dense, 0 %", seeds, figures, {METRIC: ap50, "bytes_on_disk": size}, folders[first])

    # Levels

    def row(self, line: Line, percent: int) -> VariantSummary | None:
        """A level; None where this network is too narrow for it."""
        name, results, folder = line.variant(percent), [], None
        for seed in self.options.seeds:
            try:
                folder, change = self._level(line, percent, seed)
            except InputError as error:
                if not line.removed:
                    raise
                self.remarks.append(f"{line.title}, {percent} %: not for this network: {error}.")
                return None
            results.append(self.bench.measure(name, folder, seed, change))
        first = self.options.seeds[0]
        figures = self._figures(name, lambda: self._pruned(line, percent, first))
        if figures.other_share > Tolerance().other_share:
            self.remarks.append(
                f"{line.title}, {percent} %: {figures.other_share:.0%} of the packed file's detections are not the "
                "checkpoint's: scores are all but equal, and the last bit decides which boxes stay. AP50 is the "
                "checkpoint's."
            )
        paper = line.paper.get(percent)
        numbers: dict[str, float | None] = {} if paper is None else {METRIC: paper[0], "bytes_on_disk": paper[1]}
        what = "channels taken out" if line.removed else "zeros"
        row = self._summary(name, f"{line.title}, {percent} %", tuple(results), figures, numbers, folder)
        of = "channels" if line.removed else "weights"
        blocks = " and ".join(line.blocks)
        return replace(row, description=f"{what}: {figures.pruned_share:.2%} of the {of} of {blocks}")

    def _level(self, line: Line, percent: int, seed: int) -> tuple[Path, Callable[[Any], Any] | None]:
        """The folder that holds a level, or from which `change` makes it."""
        folder, dense, _ = self.dense(seed)
        if line.removed:
            line.prune(dense, percent)  # refused before anything is measured
        if not self.plan.fine_tune_share:
            return folder, lambda detector: line.prune(detector, percent)[0]
        return self._fine_tuned(line, percent, seed), None

    def _fine_tuned(self, line: Line, percent: int, seed: int) -> Path:
        """The level trained on at a tenth of the learning rate; the paper does not do this."""
        whole = self.schedule(self.plan.fine_tune_share)
        schedule = replace(whole, learning_rate=whole.learning_rate / 10, milestones=())

        def step() -> Any:
            pruned = DetectionStep(line.prune(self.dense(seed)[1], percent)[0])
            return pruned if line.removed else MaskedStep(pruned)

        return self.bench.train(f"{line.variant(percent)}/seed{seed}", step, schedule, seed, AugmentConfig())

    def _pruned(self, line: Line, percent: int, seed: int) -> tuple[Any, Any, float]:
        """The detector of a level, what its checkpoint says, and the share that is gone."""
        _, dense, info = self.dense(seed)
        pruned, share = line.prune(dense, percent)
        run = compressed_run(info.extra, "prune", line.config(percent), info.metrics)
        if self.plan.fine_tune_share:
            pruned = load_checkpoint(self._fine_tuned(line, percent, seed))[0]
            run["compression"].append({"step": "fine-tuning", "share_of_schedule": self.plan.fine_tune_share})
        return pruned, replace(info, extra=run, metrics={}), share

    def _figures(self, name: str, make: Callable[[], tuple[Any, Any, float]]) -> LevelFigures:
        """Sizes; kept in the run's `levels`, beside the packed file."""
        kept, packed = self.options.out / "levels" / f"{name}.json", self.bench.packed(name)
        if not (kept.is_file() and packed.is_file()):
            proof = Tolerance() if name == DENSE else _MEASURED
            write_json(kept, to_plain(self._measured(make, packed, proof)))
        figures: LevelFigures = from_plain(LevelFigures, read_json(kept), kept)
        return figures

    def _measured(self, make: Callable[[], tuple[Any, Any, float]], packed: Path, proof: Tolerance) -> LevelFigures:
        detector, info, share = make()
        samples = self.bench.test_samples
        input_hw = detector.config.preprocessing.resized_hw(samples[0].size_hw)
        complexity = measure_complexity(detector, input_hw)
        exported = export_detector(
            detector,
            packed,
            "packed",
            samples=samples[:_PROOF_IMAGES],
            metrics=info.metrics,
            run=info.extra,
            compression=info.extra.get("compression", ()),
            tolerance=proof,
        )
        found = exported.agreement
        return LevelFigures(
            complexity.parameters,
            complexity.multiply_adds,
            input_hw,
            packed.stat().st_size,
            share,
            sparsity_of(layer_sparsities(detector)),
            {name: BlockFigures(block.parameters, block.multiply_adds) for name, block in complexity.blocks.items()},
            found.other / max(1, 2 * found.same + found.other),
        )

    def _summary(
        self,
        name: str,
        title: str,
        seeds: tuple[SeedResult, ...],
        figures: LevelFigures,
        paper: dict[str, float | None],
        folder: Path | None,
    ) -> VariantSummary:
        out = self.options.out
        own = folder is not None and folder.is_relative_to(out) and (name == DENSE or self.plan.fine_tune_share)
        trained = name == DENSE or self.plan.fine_tune_share
        return VariantSummary(
            name,
            title,
            seeds=seeds if trained else tuple(replace(seed, loss_log=None, seconds=0.0) for seed in seeds),
            parameters=figures.parameters,
            multiply_adds=figures.multiply_adds,
            input_hw=figures.input_hw,
            bytes_on_disk=figures.bytes_on_disk,
            paper=paper,
            checkpoint=str(folder.relative_to(out)) if folder and own else None,
            blocks=figures.blocks,
        )

    # What the report says

    def timed(self, rows: Iterable[VariantSummary]) -> tuple[VariantSummary, ...]:
        """The rows with milliseconds, measured side by side by as many at once as memory should hold."""
        rows = tuple(rows)
        if not self.plan.timed:
            return rows
        groups: list[list[VariantSummary]] = [[]]
        for row in rows:
            if groups[-1] and sum(other.bytes_on_disk or 0 for other in (*groups[-1], row)) > _TIMED_BYTES:
                groups.append([])
            groups[-1].append(row)
        return tuple(row for group in groups for row in self.bench.timed(group))

    def budget_in_words(self) -> str:
        steps = self.schedule()
        dense = f"{steps.iterations} steps of {steps.batch_size}"
        if self.options.teacher:
            dense = "not trained here"
        tuned = "levels are not trained on, as in the paper"
        if share := self.plan.fine_tune_share:
            tuned = f"each level {self.schedule(share).iterations} steps more"
        return f"dense detector: {dense}; {tuned}"

    def settings(self) -> dict[str, str]:
        if self.options.teacher:
            return {"dense detector": str(self.options.teacher)}
        return {"dense detector": self.start.in_words(), "learning rate": f"{self.schedule().learning_rate:g}"}


def _removed_share(report: RemovalReport, blocks: tuple[Block, ...]) -> float:
    own = [group for group in report.groups if group.block in blocks]
    return 1 - sum(group.after for group in own) / sum(group.before for group in own)
