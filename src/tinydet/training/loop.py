"""The one training loop. What is trained and on what losses is the step that is passed in.

A run's folder holds `last` (the newest checkpoint, with the training state while the run is under way), `best` (of
the best validation), `losses.jsonl`, `validations.jsonl` and `tensorboard/`. Calling `train` again with the same
arguments goes on from `last`. Nothing random is stored: the batch, its augmentation and the random numbers of a step
are functions of the seed and the step's number, so that on a CPU an interrupted run ends with the very weights of one
that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

from tinydet.config import to_plain
from tinydet.data.batch import Batch
from tinydet.errors import TinydetError
from tinydet.files import read_json
from tinydet.training.checkpoint import BEST, LAST, save_checkpoint
from tinydet.training.ema import MovingAverage
from tinydet.training.engine import DeviceChoice, Engine, Held, HeldStep, start_engine
from tinydet.training.interruption import Interruption
from tinydet.training.logs import RunLog
from tinydet.training.progress import TrainingProgress
from tinydet.training.resume import (
    Resumed,
    capture_state,
    read_resumed,
    restore_state,
    restore_weights,
    step_tensors,
)
from tinydet.training.schedule import Schedule, parameter_groups
from tinydet.training.steps import describe_step
from tinydet.training.validation import Validation

CHECKPOINT_SECONDS = 60.0


class BatchSource(Protocol):
    """Where batches come from: `tinydet.data.Loader`, or anything else with a batch for every step."""

    batch_size: int
    seed: int

    def description(self) -> dict[str, Any]: ...

    def batches(self, start: int, stop: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class TrainingResult:
    """What came of a run.

    Attributes:
        steps: done in all.
        checkpoint: the best where there was validation, else the last.
        metrics: of that checkpoint.
        losses: of the last step; empty where the run had already ended.
        seconds: of this call.
    """

    steps: int
    checkpoint: Path
    metrics: dict[str, Any]
    losses: dict[str, float]
    images_per_second: float
    seconds: float


def train(
    step: Any,
    loader: BatchSource,
    schedule: Schedule,
    out_dir: str | Path,
    *,
    validate: Callable[[Any], Validation] | None = None,
    validate_every: int | None = None,
    checkpoint_every: int | None = None,
    device: DeviceChoice = "auto",
    extra: Mapping[str, Any] | None = None,
    origin: Mapping[str, str] | None = None,
    title: str = "train",
    quiet: bool = False,
) -> TrainingResult:
    """Train `step.detector`, or go on with a run that `out_dir` holds, or return what it came to if it has ended.

    The detector is left with the last weights (their average with `ema_decay`), in evaluation mode.

    Args:
        step: a `tinydet.training.steps.Step`.
        validate: called in every process with the detector; its score chooses the best checkpoint.
        validate_every: steps between validations; None: at the end only.
        checkpoint_every: steps between checkpoints; None: a minute between them. One follows each validation.
        extra: plain values to keep in each checkpoint's config.json.
        origin: fingerprints of what the step was made from (`checkpoint.fingerprint`): a run of others is another run.
        quiet: show no progress.

    Raises:
        InputError: `out_dir` holds another run, or the device is not to be had.
        TinydetError: a loss or gradient is not finite; the last checkpoint is as it was.
        KeyboardInterrupt: after Ctrl-C, once the step at hand is saved.
    """
    if schedule.batch_size != loader.batch_size:
        raise ValueError(f"the schedule has batches of {schedule.batch_size}, the loader of {loader.batch_size}")
    if not any(parameter.requires_grad for parameter in step.parameters()):
        raise ValueError(f"{type(step).__name__} has no parameter to train")
    engine = start_engine(device, schedule.precision)
    cuda = [engine.device.index or 0] if engine.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):  # the caller's random numbers are the same, resumed or not
        run = _Run(step, loader, schedule, Path(out_dir), engine, extra or {}, origin or {})
        if run.ended:
            step.eval()
        else:
            shown = engine.rank == 0 and not quiet
            with TrainingProgress(title, schedule.iterations, run.done, schedule.batch_size, shown) as progress:
                run.go(validate, validate_every, checkpoint_every, progress)
    return run.result()


class _Run:
    """One call of `train`: what it works on and how far it is.

    Attributes:
        done: steps done in all.
        losses: of the last step, the mean over processes.
    """

    def __init__(
        self,
        step: Any,
        loader: BatchSource,
        schedule: Schedule,
        out_dir: Path,
        engine: Engine,
        extra: Mapping[str, Any],
        origin: Mapping[str, str],
    ) -> None:
        self.step, self.loader, self.schedule, self.out_dir, self.engine = step, loader, schedule, out_dir, engine
        description = {"schedule": schedule, "data": loader.description(), "step": describe_step(step)}
        if origin:
            description["origin"] = dict(origin)
        self.extra = {**extra, "training": to_plain(description)}
        self.done = 0
        self.best_score: float | None = None
        self.losses: dict[str, float] = {}
        self.began, self.images_per_second = time.monotonic(), 0.0
        resumed = read_resumed(out_dir, self.extra["training"], step.detector.config) if engine.rank == 0 else None
        resumed = engine.fabric.broadcast(resumed)
        if resumed:
            restore_weights(resumed, step)
        self._set_up_optimizer(resumed)
        self.ended = resumed is not None and resumed.state is None
        if self.ended:
            self.done = schedule.iterations

    def _set_up_optimizer(self, resumed: Resumed | None) -> None:
        groups = parameter_groups(self.step.named_parameters(), self.schedule)
        self.optimizer = torch.optim.SGD(groups, self.schedule.learning_rate, self.schedule.momentum)
        held = HeldStep(self.step)
        self.forward, self.fabric_optimizer = self.engine.fabric.setup(held, self.optimizer)
        decay = self.schedule.ema_decay
        self.average = MovingAverage(self.step.detector, decay) if decay else None
        if resumed and resumed.state:
            restore_state(resumed, self.step, self.optimizer, self.average, self.engine.scaler)
            self.done, self.best_score = resumed.state.step, resumed.state.best_score

    def go(
        self,
        validate: Callable[[Any], Validation] | None,
        validate_every: int | None,
        checkpoint_every: int | None,
        progress: TrainingProgress,
    ) -> None:
        """Train from the step after `done` to the last, then validate and save."""
        writes = self.engine.rank == 0
        log = RunLog(self.out_dir, self.done, every=max(1, self.schedule.iterations // 1000)) if writes else None
        if self.done:
            progress.note(f"{progress.title}: goes on from step {self.done} of {self.schedule.iterations}")
        self.step.train()
        with closing(log) if log else nullcontext(), Interruption() as interruption:
            saved_at = time.monotonic()
            for _ in self._steps(interruption, progress, log):
                if self.done == self.schedule.iterations:
                    break
                validates = validate and validate_every and self.done % validate_every == 0
                if validate and validates:
                    self._validate(validate, progress, log)
                elapsed = time.monotonic() - saved_at
                if validates or (
                    self.done % checkpoint_every == 0 if checkpoint_every else elapsed > CHECKPOINT_SECONDS
                ):
                    self._save(log, ended=False)
                    saved_at = time.monotonic()
            metrics = self._validate(validate, progress, log) if validate else {}
            if self.average:
                self.average.apply()
            self._save(log, ended=True, metrics=metrics)
        self.step.eval()

    def _steps(self, interruption: Interruption, progress: TrainingProgress, log: RunLog | None) -> Iterator[None]:
        """Do one step after the other, until the last or until asked to stop."""
        engine = self.engine
        batches = self.loader.batches(self.done, self.schedule.iterations, engine.rank, engine.world_size)
        started = time.monotonic()
        for batch in batches:
            stopping = self._train_on(batch, interruption.asked)
            self.done += 1
            progress.step(self.done, self.losses, time.monotonic() - started)
            self.images_per_second = progress.images_per_second
            if log:
                rate = self.schedule.learning_rate_at(self.done - 1)
                log.step(self.done, rate, self.losses, self.images_per_second)
            if stopping:
                self._save(log, ended=False)
                progress.note(f"{progress.title}: stopped at step {self.done} and saved; the same command goes on")
                raise KeyboardInterrupt
            yield
            started = time.monotonic()

    def _train_on(self, batch: Batch, asked_to_stop: bool) -> bool:
        """One optimizer step; whether any process was asked to stop."""
        engine = self.engine
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate_at(self.done)
        torch.manual_seed(step_seed(self.loader.seed, self.done, engine.rank))
        losses: dict[str, Tensor] = self.forward(Held(batch.to(engine.device)))
        total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        engine.fabric.backward(total)
        norm = engine.fabric.clip_gradients(
            self.forward, self.fabric_optimizer, max_norm=self.schedule.clip_norm or math.inf, error_if_nonfinite=False
        )
        assert norm is not None
        values = [loss.detach().float() for loss in losses.values()]
        stop = torch.tensor(float(asked_to_stop), device=engine.device)
        own = torch.stack([*values, norm.float(), stop])
        *means, norm_value, stopping = engine.mean(own).tolist()  # the step's one wait for the device
        # In half precision the scaler passes over gradients that overflow; they are no fault of the run's.
        if not all(map(math.isfinite, means)) or not (engine.scaler or math.isfinite(norm_value)):
            self._refuse(batch, dict(zip(losses, own.tolist())), norm_value)
        self.fabric_optimizer.step()
        after_update = getattr(self.step, "after_update", None)
        if after_update:
            after_update(self.done + 1)
        if self.average:
            self.average.update(self.done)
        self.losses = dict(zip(losses, means))
        return stopping > 0

    def _refuse(self, batch: Batch, losses: dict[str, float], norm: float) -> NoReturn:
        """Stop: a loss or the gradient is not finite."""
        own_fault = not all(map(math.isfinite, losses.values()))
        parts = self.engine.gathered((own_fault, losses, batch.image_ids))
        blamed = [part for part in parts if part[0]] or parts
        found = "; ".join(
            f"{', '.join(f'{name} {value:.4g}' for name, value in part[1].items())} on {', '.join(part[2])}"
            for part in blamed
        )
        what = "a loss" if any(part[0] for part in parts) else f"the gradient (norm {norm})"
        raise TinydetError(
            f"step {self.done + 1}: {what} is not finite: {found}. Nothing was saved over the last checkpoint. Look at "
            "these images and their boxes; else start again with a lower learning rate, warm-up, or gradient clipping"
        )

    def _check_weights(self) -> None:
        """A loss shows broken weights one step late, when a checkpoint of them could already lie over a whole one."""
        for name, weight in self.step.named_parameters():
            if not weight.isfinite().all():
                raise TinydetError(
                    f"step {self.done}: {name} is not finite after it. Nothing was saved over the last checkpoint; "
                    "start again with a lower learning rate, warm-up, or gradient clipping"
                )

    def _validate(
        self, validate: Callable[[Any], Validation], progress: TrainingProgress, log: RunLog | None
    ) -> dict[str, Any]:
        """Measure the weights that would be saved, and save them where they are the best so far."""
        self._check_weights()
        with self.average.applied() if self.average else nullcontext():
            found = validate(self.step.detector)
            metrics = {"step": self.done, "score": found.score, **found.metrics}
            if self.best_score is None or found.score > self.best_score:
                self.best_score = found.score
                if self.engine.rank == 0:
                    save_checkpoint(self.out_dir / BEST, self.step.detector, metrics=metrics, extra=self.extra)
        self.step.train()
        progress.note(f"{progress.title}: step {self.done}: score {found.score:.4f}, best {self.best_score:.4f}")
        if log:
            log.validation(self.done, found.score, found.metrics)
        return metrics

    def _save(self, log: RunLog | None, ended: bool, metrics: Mapping[str, Any] | None = None) -> None:
        """Write `last`: to go on from, or, where the run has `ended`, to use."""
        self._check_weights()
        if log is None:
            return
        log.flush()
        state = None
        if not ended:
            state = capture_state(
                self.done, self.best_score, self.step, self.optimizer, self.average, self.engine.scaler
            )
        with self.average.applied() if self.average and not ended else nullcontext():
            save_checkpoint(
                self.out_dir / LAST,
                self.step.detector,
                metrics={"step": self.done, **(metrics or {})},
                extra=self.extra,
                step_tensors=step_tensors(self.step),
                state=state,
            )

    def result(self) -> TrainingResult:
        self.engine.fabric.barrier()  # the checkpoint is there when any process looks for it
        best = self.out_dir / BEST
        checkpoint = best if best.is_dir() else self.out_dir / LAST
        return TrainingResult(
            steps=self.done,
            checkpoint=checkpoint,
            metrics=read_json(checkpoint / "metrics.json") if checkpoint.is_dir() else {},
            losses=self.losses,
            images_per_second=self.images_per_second,
            seconds=time.monotonic() - self.began,
        )


def step_seed(seed: int, step: int, rank: int) -> int:
    """What torch's random numbers of a step start from, in each process its own."""
    return int(np.random.SeedSequence([seed, step, 2, rank]).generate_state(1, np.uint64)[0])
