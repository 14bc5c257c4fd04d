"""What all stages of one run share: the data, the run's folder, training that goes on where it stopped, measuring."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from tinydet.config import from_plain, to_plain
from tinydet.data.loader import make_loader
from tinydet.data.transforms import Augment
from tinydet.datasets import open_dataset, usable_samples
from tinydet.datasets.selection import select_splits
from tinydet.errors import InputError
from tinydet.evaluation import evaluate
from tinydet.evaluation.results import Protocol
from tinydet.evaluation.wider_face import SUBSETS, read_ground_truth
from tinydet.files import read_json, write_json
from tinydet.machine import installed_versions, this_machine
from tinydet.recipes.figures import latencies_ms
from tinydet.recipes.recipe import RecipeOptions
from tinydet.records import Detections
from tinydet.report.pictures import save_pictures
from tinydet.report.summary import Asked, SeedResult, VariantSummary, precision_recall_curve
from tinydet.training.checkpoint import fingerprint, load_checkpoint
from tinydet.training.loop import train
from tinydet.training.schedule import Schedule
from tinydet.training.validation import detect_samples

PICTURES = 6

METRICS = ("mAP", *SUBSETS)
"""Accuracies that a table may have, in the order of its columns."""

_IN_WORDS: dict[Protocol, str] = {
    "voc07": "VOC 2007: mean of eleven precisions, IoU 0.5",
    "wider": "WIDER FACE's own protocol: AP of the easy, medium and hard faces of its validation set",
}


class Workbench:
    """One run: its data is opened once, and each of its stages is a folder in `options.out`.

    A stage that is done is not done again, and one that was interrupted goes on, so that the same command finishes a
    run whatever stopped it.

    Attributes:
        protocol: WIDER FACE's where its ground truth is given, else the 11-point rule of VOC 2007.
        metrics: that the protocol measures, the table's columns.
        pictured: the test images that the report shows.
    """

    def __init__(self, options: RecipeOptions) -> None:
        self.options = options
        self.protocol: Protocol = "wider" if options.wider_ground_truth else "voc07"
        self.metrics = SUBSETS if options.wider_ground_truth else ("mAP",)
        self.protocol_in_words = _IN_WORDS[self.protocol]
        self._started = time.monotonic()
        self._pictured: dict[str, list[Detections]] = {}
        chosen = select_splits(open_dataset(options.data), options.train_split, options.test_split)
        self.dataset, self.train_split, self.test_split = chosen.dataset, chosen.train, chosen.test
        self.classes = self.dataset.classes
        self.train_samples = usable_samples(self.dataset, chosen.train)
        self.test_samples = usable_samples(self.dataset, chosen.test)
        self.pictured = tuple(sample for sample in self.test_samples if len(sample.annotations))[:PICTURES]
        if options.wider_ground_truth:
            self._check_wider(options.wider_ground_truth)

    def _check_wider(self, folder: Path) -> None:
        """Before hours of training: the test images are those of the official ground truth."""
        official = read_ground_truth(folder)
        tested = {sample.image_id for sample in self.test_samples}
        unknown = sorted(tested - official.keys())
        if unknown:
            raise InputError(
                f"{folder}: {len(unknown)} of the {len(tested)} images of {self.test_split} are not in the ground "
                f"truth, such as {unknown[0]!r}; the protocol is for WIDER FACE's own validation images alone"
            )
        if len(tested) < len(official):
            missing = len(official) - len(tested)
            self.say(
                f"{missing} of the ground truth's {len(official)} images are not in {self.test_split}: "
                "their faces count as missed"
            )

    def _claim(self) -> None:
        """What the folder holds came of the same teacher and weights, trained or measured.

        Called late: a run whose options are refused leaves no trace.

        Raises:
            InputError: of others.
        """
        options, kept = self.options, self.options.out / "origin.json"
        given = {name: getattr(options, name) for name in ("teacher", "teacher_weights", "student_weights")}
        now = {name: None if source is None else fingerprint(source) for name, source in given.items()}
        if not kept.is_file():
            write_json(kept, now)
        for name, there in read_json(kept).items():
            if there != now[name]:
                held = "with another" if there and now[name] else "with" if there else "without"
                raise InputError(f"{options.out}: holds a run {held} --{name.replace('_', '-')}; use another folder")

    def say(self, text: str) -> None:
        print(f"tinydet: {text}", file=sys.stderr, flush=True)

    def train(
        self,
        stage: str,
        make_step: Callable[[], Any],
        schedule: Schedule,
        seed: int,
        augment: Augment,
    ) -> Path:
        """Train what `make_step` builds in the folder of a stage, as far as is still to be done; gives the folder."""
        self._claim()
        folder = self.options.out / stage
        with torch.random.fork_rng(devices=[]):  # what a step trains beside its detector depends on the seed alone
            torch.manual_seed(seed)
            step: Any = make_step()
        loader = make_loader(self.train_samples, step.detector.config.preprocessing, schedule.batch_size, augment, seed)
        self.say(f"{stage}: {schedule.iterations} steps of {schedule.batch_size} images")
        result = train(step, loader, schedule, folder, device=self.options.device, title=stage)
        took = folder / "seconds.json"
        seconds = result.seconds + (read_json(took) if took.is_file() else 0.0)
        write_json(took, round(seconds, 1))
        return folder

    def measure(self, variant: str, folder: Path, seed: int, change: Callable[[Any], Any] | None = None) -> SeedResult:
        """Accuracy of a checkpoint on the test split; kept in the run's `evaluations`.

        Args:
            variant: whose pictures these are; those of its first seed are shown.
            change: what is done to the detector before, such as putting Q into it.
        """
        self._claim()
        rule = "_wider" if self.protocol == "wider" else ""
        kept = self.options.out / "evaluations" / f"{variant}_seed{seed}_{self.test_split}{rule}.json"
        if not kept.is_file():
            write_json(kept, self._measured(variant, folder, seed, change))
        content = read_json(kept)
        self._pictured.setdefault(
            variant, [Detections(d["boxes_xyxy"], d["scores"], d["labels"]) for d in content["pictured"]]
        )
        return from_plain(SeedResult, content["result"], kept)

    def _measured(self, variant: str, folder: Path, seed: int, change: Callable[[Any], Any] | None) -> dict[str, Any]:
        self.say(f"{variant}, seed {seed}: testing on {len(self.test_samples)} images of {self.test_split}")
        detector, _ = load_checkpoint(folder)
        if change is not None:
            detector = change(detector).eval()
        found = detect_samples(detector, self.test_samples)
        truth = self.options.wider_ground_truth
        result = evaluate(self.test_samples, found, self.classes, self.protocol, truth)
        log, took = folder / "losses.jsonl", folder / "seconds.json"
        own_log = log.is_file() and log.is_relative_to(self.options.out)
        plain = result.as_json()
        measured = SeedResult(
            seed,
            plain["metrics"],
            plain["per_class"],
            {
                name: precision_recall_curve(curve.recall.tolist(), curve.precision.tolist())
                for name, curve in result.curves.items()
            },
            loss_log=str(log.relative_to(self.options.out)) if own_log else None,
            seconds=read_json(took) if took.is_file() else 0.0,
        )
        shown = [found.get(sample.image_id, Detections.empty()) for sample in self.pictured]
        pictured = [
            {"boxes_xyxy": d.boxes_xyxy.tolist(), "scores": d.scores.tolist(), "labels": d.labels.tolist()}
            for d in shown
        ]
        return {"result": to_plain(measured), "pictured": pictured}

    def packed(self, variant: str) -> Path:
        """Where a variant's packed file is, or is to be."""
        return self.options.out / "packed" / f"{variant}.tinydet"

    def timed(self, variants: Iterable[VariantSummary]) -> tuple[VariantSummary, ...]:
        """The rows with their milliseconds, all packed files measured side by side; as they are where none is asked."""
        rows = tuple(variants)
        if not rows or not self.options.latency_images:
            return rows
        self.say(f"timing {len(rows)} packed files side by side")
        pictures = [sample.open_image() for sample in self.test_samples[: self.options.latency_images]]
        measured = latencies_ms([self.packed(row.name) for row in rows], pictures)
        return tuple(replace(row, latency_ms=ms) for row, ms in zip(rows, measured))

    def asked(self, budget: str, settings: Mapping[str, str]) -> Asked:
        """What was asked for, for the report."""
        earlier = self.options.out / "seconds.json"
        seconds = time.monotonic() - self._started + (read_json(earlier) if earlier.is_file() else 0.0)
        write_json(earlier, round(seconds, 1))
        return Asked(
            data=f"{self.dataset.name}: {len(self.train_samples)} images of {self.train_split}",
            split=f"{self.test_split}, {len(self.test_samples)} images",
            seeds=self.options.seeds,
            budget=budget,
            command=self.options.command,
            machine=str(this_machine()),
            versions=installed_versions(),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=seconds,
            settings=dict(settings),
        )

    def save_pictures(self) -> None:
        """The same images with what each variant found, for the report."""
        save_pictures(self.options.out, self.pictured, self._pictured, self.classes)
