"""What the training verbs share: from their options to the parts of a run, and the run itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydet.cli.option_values import checked, numbers, one_of, whole_numbers
from tinydet.cli.training_options import RunOptions, TrainingOptions
from tinydet.errors import InputError

if TYPE_CHECKING:
    from tinydet.cli.starting_network import StartingNetwork
    from tinydet.data.transforms import Augment
    from tinydet.records import Sample
    from tinydet.training.loop import TrainingResult
    from tinydet.training.schedule import Schedule
    from tinydet.training.validation import Validate


def open_splits(data: str, train_split: str | None, test_split: str | None) -> Any:
    from tinydet.datasets import open_dataset
    from tinydet.datasets.selection import select_splits

    dataset = open_dataset(data)
    if not dataset.classes:
        first = f"; the first fault: {dataset.faults[0]}" if dataset.faults else ""
        raise InputError(f"{data}: no class is named in it{first}")
    return select_splits(dataset, train_split, test_split)


def training_schedule(
    iterations: int,
    learning_rate: float,
    milestones: str,
    warmup: int,
    batch_size: int,
    clip_norm: float,
    ema: float,
    precision: str,
) -> Schedule:
    from tinydet.training.schedule import Schedule

    return checked(
        lambda: Schedule(
            iterations,
            learning_rate,
            numbers("milestones", milestones) or (),
            warmup_iterations=warmup,
            batch_size=batch_size,
            clip_norm=clip_norm or None,
            ema_decay=ema or None,
            precision=one_of("precision", precision, "32", "bf16", "16"),
        )
    )


def run_stage(
    step: Any,
    start: StartingNetwork,
    selection: Any,
    run: RunOptions,
    training: TrainingOptions,
    teacher: Path | None = None,
    validated: bool = True,
) -> TrainingResult:
    """Train a step on the train split, validating on the test split, which is not touched otherwise.

    Args:
        start: what the step's detector began as: what was done to its weights is kept, and goes into the checkpoint.
        teacher: the checkpoint of the step's, if it has one.
    """
    from tinydet.data.loader import make_loader
    from tinydet.datasets import usable_samples
    from tinydet.training.checkpoint import fingerprint
    from tinydet.training.loop import train as train_loop

    schedule = training_schedule(
        training.iterations,
        training.learning_rate,
        training.milestones,
        training.warmup,
        training.batch_size,
        training.clip_norm,
        training.ema,
        training.precision,
    )
    augment = augmentation(step.detector, training.flip, training.jitter, training.ssd_augment)
    device: Any = one_of("device", run.device, "auto", "cpu", "cuda")
    if training.validate_every is not None and training.validate_every < 1:
        raise InputError(f"validate every {training.validate_every} steps: expected at least 1")
    protocol = one_of("protocol", training.protocol, "voc07", "voc", "coco")
    validate = validation_on(selection, protocol) if validated else None
    samples: tuple[Sample, ...] = usable_samples(selection.dataset, selection.train)
    loader = make_loader(samples, step.detector.config.preprocessing, schedule.batch_size, augment, run.seed)
    extra = {}
    if start.kept is not None:
        step, said = start.kept.keeping(step)
        for sentence in said:
            print(f"tinydet: what this starts from: {sentence}", file=sys.stderr)
        extra = {"compression": list(start.kept.steps)} if start.kept.steps else {}
    return train_loop(
        step,
        loader,
        schedule,
        run.out,
        validate=validate,
        validate_every=training.validate_every or max(1, schedule.iterations // 10),
        device=device,
        extra=extra,
        origin={name: fingerprint(found) for name, found in (("start", start.source), ("teacher", teacher)) if found},
        title=run.out.name,
    )


def validation_on(selection: Any, protocol: str) -> Validate:
    """What measures a detector on the test split."""
    from tinydet.datasets import usable_samples
    from tinydet.training.validation import Validate

    name = one_of("protocol", protocol, "voc07", "voc", "coco")
    return Validate(usable_samples(selection.dataset, selection.test), selection.dataset.classes, name)


def augmentation(network: Any, flip: float, jitter: str | None, ssd_augment: bool | None) -> Augment:
    """How training images are varied: as SSD's where that is asked for, or where it is not said and this is an SSD."""
    from tinydet.data.ssd_augment import SSDAugmentConfig
    from tinydet.data.transforms import AugmentConfig
    from tinydet.detectors.ssd import SSD

    if ssd_augment or (ssd_augment is None and isinstance(network, SSD)):
        return checked(lambda: SSDAugmentConfig(flip_probability=flip))
    return checked(lambda: AugmentConfig(flip, whole_numbers("jitter", jitter) or ()))


def print_result(result: TrainingResult, json_file: Path | None) -> None:
    from tinydet.files import write_json

    shown = {name: value for name, value in result.metrics.items() if isinstance(value, float)}
    print(f"{result.checkpoint}: {', '.join(f'{name} {value:.4f}' for name, value in shown.items()) or 'trained'}")
    if json_file:
        write_json(json_file, {"checkpoint": str(result.checkpoint), "steps": result.steps, "metrics": result.metrics})
