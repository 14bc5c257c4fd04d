"""The loop learns, resumes bit for bit, refuses what it must, and writes what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tinydet.errors import InputError, TinydetError
from tinydet.training import DetectionStep, Validation, train
from tinydet.training.loop import step_seed


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same_weights(first: Path, second: Path) -> None:
    a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert a.keys() == b.keys()
    for name, weight in a.items():
        assert torch.equal(weight, b[name]), name


def test_learns_and_writes_a_usable_run(tiny: ModuleType, tmp_path: Path) -> None:
    result = tiny.tiny_train(tmp_path, 60, dropout=0.0)
    log = lines(tmp_path / "losses.jsonl")
    assert [entry["step"] for entry in log] == list(range(1, 61))
    first, last = (sum(sum(entry["losses"].values()) for entry in part) for part in (log[:10], log[-10:]))
    assert last < 0.7 * first
    assert result.steps == 60
    assert result.losses == log[-1]["losses"]
    assert result.checkpoint == tmp_path / "last"
    assert sorted(path.name for path in result.checkpoint.iterdir()) == [
        "config.json",
        "metrics.json",
        "model.safetensors",
    ]
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    config = json.loads((result.checkpoint / "config.json").read_text())
    assert config["classes"] == ["thing"]
    assert config["run"]["training"]["schedule"]["iterations"] == 60
    assert config["run"]["training"]["data"]["seed"] == 3


def test_the_update_is_plain_sgd(tiny: ModuleType, tmp_path: Path) -> None:
    """Two steps against momentum SGD written from its equations, in the loop's own order of batches."""
    detector = tiny.TinyDetector(tiny.TinyConfig(dropout=0.0))
    step = DetectionStep(detector)
    reference = tiny.TinyDetector(tiny.TinyConfig(dropout=0.0)).double()
    weights = list(reference.parameters())
    velocity = [torch.zeros_like(weight) for weight in weights]
    loader, schedule = (
        tiny.tiny_loader(),
        tiny.tiny_schedule(2, weight_decay=0.01, warmup_iterations=0, milestones=(0.5,)),
    )
    for index in range(2):
        batch = loader.batch(index)
        batch = replace(batch, images=batch.images.double())
        losses = reference.criterion(reference(batch), batch.targets)
        gradients = torch.autograd.grad(sum(losses.values()), weights)
        with torch.no_grad():
            for weight, gradient, v in zip(weights, gradients, velocity):
                v.mul_(0.9).add_(gradient + 0.01 * weight)
                weight -= (0.05, 0.005)[index] * v
    train(step, loader, schedule, tmp_path, device="cpu", quiet=True)
    for weight, trained in zip(weights, detector.parameters()):
        torch.testing.assert_close(trained.double(), weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_stopped_and_resumed_equals_never_stopped(tiny: ModuleType, tmp_path: Path, ema_decay: float | None) -> None:
    options = {"ema_decay": ema_decay, "clip_norm": 0.5, "checkpoint_every": 4}
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    tiny.tiny_train(whole, 20, **options)

    step = DetectionStep(FailingDetector(tiny, at=11))
    with pytest.raises(RuntimeError, match="power cut"):
        tiny.tiny_train(parted, 20, step=step, **options)
    assert json.loads((parted / "last" / "training" / "state.json").read_text())["step"] == 8
    tiny.tiny_train(parted, 20, **options)
    assert_same_weights(whole / "last", parted / "last")
    assert lines(whole / "losses.jsonl") == lines(parted / "losses.jsonl")


def test_sigkill_loses_only_the_steps_since_the_checkpoint(
    tiny: ModuleType, tiny_program: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tiny.tiny_train(whole, 40, checkpoint_every=3)
    command = [sys.executable, str(tiny_program), str(killed), "--iterations", "40", "--checkpoint-every", "3"]
    process = subprocess.Popen([*command, "--seconds", "0.05"], env={**os.environ, "OMP_NUM_THREADS": "1"})
    state = killed / "last" / "training" / "state.json"
    deadline = time.monotonic() + 60
    while not (state.exists() and json.loads(state.read_text())["step"] >= 6):
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (killed / "last" / "training").exists(), "ended before it could be killed"
    tiny.tiny_train(killed, 40, checkpoint_every=3)
    assert_same_weights(whole / "last", killed / "last")
    assert lines(whole / "losses.jsonl") == lines(killed / "losses.jsonl")


def test_two_processes_equal_one(tiny: ModuleType, tiny_program: Path, tmp_path: Path) -> None:
    one, several = tmp_path / "one", tmp_path / "several"
    tiny.tiny_train(one, 4, dropout=0.0)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launcher, str(tiny_program), str(several), "--iterations", "4", "--dropout", "0"]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for alone, together in zip(lines(one / "losses.jsonl"), lines(several / "losses.jsonl"), strict=True):
        assert together["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    for name, weight in load_file(one / "last" / "model.safetensors").items():
        torch.testing.assert_close(
            load_file(several / "last" / "model.safetensors")[name], weight, rtol=1e-5, atol=1e-7
        )


def test_a_run_that_ended_is_returned_and_not_repeated(tiny: ModuleType, tmp_path: Path) -> None:
    first = tiny.tiny_train(tmp_path, 5)
    step = DetectionStep(tiny.TinyDetector())
    again = tiny.tiny_train(tmp_path, 5, step=step)
    assert (again.steps, again.checkpoint, again.losses) == (5, first.checkpoint, {})
    assert not step.training
    for name, weight in load_file(first.checkpoint / "model.safetensors").items():
        assert torch.equal(step.detector.state_dict()[name], weight)


def test_another_run_in_the_folder_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.tiny_train(tmp_path, 3)
    with pytest.raises(InputError, match=r"holds another run.*\n.*schedule.learning_rate: 0.05 there, 0.1 now"):
        tiny.tiny_train(tmp_path, 3, learning_rate=0.1)
    with pytest.raises(InputError, match=r"detector\.dropout: 0.5 there, 0.25 now"):
        tiny.tiny_train(tmp_path, 3, dropout=0.25)


def test_the_best_validation_is_kept(tiny: ModuleType, tmp_path: Path) -> None:
    scores = {2: 0.1, 4: 0.7, 6: 0.3, 8: 0.7, 10: 0.2}
    seen: list[dict[str, Tensor]] = []

    def validate(detector: Any) -> Validation:
        seen.append({name: value.clone() for name, value in detector.state_dict().items()})
        return Validation(scores[2 * len(seen)], {"mAP": scores[2 * len(seen)]})

    result = tiny.tiny_train(tmp_path, 10, validate=validate, validate_every=2)
    assert result.checkpoint == tmp_path / "best"
    assert result.metrics == {"step": 4, "score": 0.7, "mAP": 0.7}
    for name, weight in load_file(tmp_path / "best" / "model.safetensors").items():
        assert torch.equal(weight, seen[1][name])
    assert [(entry["step"], entry["score"]) for entry in lines(tmp_path / "validations.jsonl")] == list(scores.items())


def test_a_resumed_run_remembers_its_best(tiny: ModuleType, tmp_path: Path) -> None:
    """Killed after the best validation; the resumed run's lower scores do not take its place."""
    scores = iter([0.9, 0.1, 0.1, 0.2])
    validate = {"validate": lambda detector: Validation(next(scores)), "validate_every": 2}
    with pytest.raises(RuntimeError, match="power cut"):
        tiny.tiny_train(tmp_path, 6, step=DetectionStep(FailingDetector(tiny, at=4)), **validate)
    result = tiny.tiny_train(tmp_path, 6, **validate)
    assert result.metrics == {"step": 2, "score": 0.9}
    assert [entry["step"] for entry in lines(tmp_path / "validations.jsonl")] == [2, 4, 6]


class TransformStep(DetectionStep):
    """Has weights of its own beside the detector's, as a mimic's transform, and a teacher that is no part of it."""

    def __init__(self, detector: Any, teacher: Any) -> None:
        super().__init__(detector)
        self.transform = torch.nn.Linear(5, 5)
        self._teacher = (teacher,)

    def forward(self, batch: Any) -> dict[str, Tensor]:
        wanted = self._teacher[0](batch).detach()
        mimic = (self.transform(self.detector(batch)) - wanted).square().sum(dim=1).mean()
        return {**super().forward(batch), "mimic": mimic}


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_steps_own_weights_resume_and_a_teachers_are_not_saved(
    tiny: ModuleType, tmp_path: Path, ema_decay: float | None
) -> None:
    def run(out_dir: Path, detector: Any) -> TransformStep:
        torch.manual_seed(1)
        step = TransformStep(detector, tiny.TinyDetector().eval())
        tiny.tiny_train(out_dir, 9, step=step, checkpoint_every=3, ema_decay=ema_decay)
        return step

    whole = run(tmp_path / "whole", tiny.TinyDetector())
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "parted", FailingDetector(tiny, at=12))  # two calls a step
    parted = run(tmp_path / "parted", tiny.TinyDetector())
    assert_same_weights(tmp_path / "whole" / "last", tmp_path / "parted" / "last")
    for name, weight in whole.state_dict().items():
        assert torch.equal(parted.state_dict()[name], weight), name
    again = run(tmp_path / "whole", tiny.TinyDetector())  # has ended
    assert torch.equal(again.transform.weight, whole.transform.weight)
    saved = load_file(tmp_path / "whole" / "last" / "step.safetensors")
    assert sorted(saved) == ["transform.bias", "transform.weight"]


def test_the_average_is_validated_and_saved(tiny: ModuleType, tmp_path: Path) -> None:
    """Against the average of the weights after each step, written out."""
    trace: list[Tensor] = []
    step = DetectionStep(tiny.TinyDetector())
    step.register_forward_pre_hook(lambda *_: trace.append(next(step.parameters()).detach().clone()))
    validated = []

    def validate(detector: Any) -> Validation:
        validated.append(next(detector.parameters()).detach().clone())
        trace.append(torch.empty(0))
        return Validation(0.0)

    tiny.tiny_train(tmp_path, 6, step=step, ema_decay=0.3, validate=validate, validate_every=5)
    before, *after = [weight for weight in trace if weight.numel()]  # of the first step, and after steps 1 to 5
    average = before.double()
    for index, weight in enumerate(after):
        decay = min(0.3, (1 + index) / (10 + index))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(validated[0].double(), average, rtol=1e-5, atol=1e-6)
    assert not torch.equal(validated[0], after[-1])
    saved = load_file(tmp_path / "last" / "model.safetensors")["layers.0.weight"]
    assert torch.equal(saved, validated[1])
    assert torch.equal(saved, step.detector.layers[0].weight)


class BrokenStep(DetectionStep):
    """From step `at` on, the loss is `value`; or its gradient alone is."""

    def __init__(self, detector: Any, at: int, value: float, gradient_only: bool = False) -> None:
        super().__init__(detector)
        self.at, self.value, self.gradient_only, self.calls = at, value, gradient_only, 0

    def forward(self, batch: Any) -> dict[str, Tensor]:
        losses = super().forward(batch)
        self.calls += 1
        if self.calls >= self.at:
            if self.gradient_only:
                losses["box"].register_hook(lambda gradient: gradient * self.value)
            else:
                losses["box"] = losses["box"] * self.value
        return losses


@pytest.mark.parametrize(
    ("value", "gradient_only"), [(float("nan"), False), (float("inf"), False), (float("nan"), True)]
)
def test_a_loss_that_is_not_finite_stops_the_run(
    tiny: ModuleType, tmp_path: Path, value: float, gradient_only: bool
) -> None:
    step = BrokenStep(tiny.TinyDetector(), 6, value, gradient_only)
    with pytest.raises(TinydetError) as error:
        tiny.tiny_train(tmp_path, 10, step=step, checkpoint_every=1)
    message = str(error.value)
    assert "step 6: " + ("the gradient" if gradient_only else "a loss") in message
    for image_id in tiny.tiny_loader().batch(5).image_ids:
        assert image_id in message
    saved = load_file(tmp_path / "last" / "model.safetensors")
    assert json.loads((tmp_path / "last" / "training" / "state.json").read_text())["step"] == 5
    assert all(weight.isfinite().all() for weight in saved.values())


class OverflowingStep(DetectionStep):
    """From the `at`-th update on, a weight is infinite, which no loss shows before the next step."""

    def __init__(self, detector: Any, at: int) -> None:
        super().__init__(detector)
        self.at = at

    def after_update(self, done: int) -> None:
        if done >= self.at:
            next(self.parameters()).data.view(-1)[0] = float("inf")


@pytest.mark.parametrize("at", [4, 6])
def test_weights_that_are_not_finite_are_never_saved(tiny: ModuleType, tmp_path: Path, at: int) -> None:
    step = OverflowingStep(tiny.TinyDetector(), at)
    with pytest.raises(TinydetError, match=rf"step {at}: .*weight is not finite.*learning rate"):
        tiny.tiny_train(tmp_path, 6, step=step, checkpoint_every=2)
    assert json.loads((tmp_path / "last" / "training" / "state.json").read_text())["step"] == at - 2
    assert all(weight.isfinite().all() for weight in load_file(tmp_path / "last" / "model.safetensors").values())


class FailingDetector:
    """A tiny detector that fails in its `at`-th forward pass."""

    def __new__(cls, tiny: ModuleType, at: int) -> Any:
        detector = tiny.TinyDetector()
        calls = [0]

        def fail(*_: Any) -> None:
            calls[0] += 1
            if calls[0] == at:
                raise RuntimeError("power cut")

        detector.register_forward_pre_hook(fail)
        return detector


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(tiny: ModuleType, tmp_path: Path, number: signal.Signals) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    tiny.tiny_train(whole, 12)
    step = DetectionStep(tiny.TinyDetector())
    calls = [0]

    def ask(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == 5:
            os.kill(os.getpid(), number)

    step.register_forward_pre_hook(ask)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        tiny.tiny_train(stopped, 12, step=step)
    assert signal.getsignal(number) is before
    assert 5 <= json.loads((stopped / "last" / "training" / "state.json").read_text())["step"] <= 6
    tiny.tiny_train(stopped, 12)
    assert_same_weights(whole / "last", stopped / "last")


def test_a_run_outside_the_main_thread_works(tiny: ModuleType, tmp_path: Path) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(tiny.tiny_train(tmp_path, 2)))
    thread.start()
    thread.join()
    assert results[0].steps == 2


def test_the_callers_random_numbers_are_left_alone(tiny: ModuleType, tmp_path: Path) -> None:
    step = DetectionStep(tiny.TinyDetector())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tiny.tiny_train(tmp_path, 2, step=step)
    assert torch.equal(torch.rand(3), expected)


def test_low_precision_keeps_boxes_and_weights_whole(tiny: ModuleType, tmp_path: Path) -> None:
    """bf16 autocasts the convolutions alone: the batch arrives in float32, the losses are near those of float32."""
    dtypes = []
    step = DetectionStep(tiny.TinyDetector(tiny.TinyConfig(dropout=0.0)))
    step.detector.layers[0].register_forward_hook(
        lambda module, inputs, output: dtypes.append((inputs[0].dtype, output.dtype))
    )
    tiny.tiny_train(tmp_path / "low", 3, step=step, precision="bf16")
    tiny.tiny_train(tmp_path / "full", 3, dropout=0.0)
    assert set(dtypes) == {(torch.float32, torch.bfloat16)}
    assert all(parameter.dtype == torch.float32 for parameter in step.parameters())
    for low, full in zip(lines(tmp_path / "low" / "losses.jsonl"), lines(tmp_path / "full" / "losses.jsonl")):
        assert low["losses"] == pytest.approx(full["losses"], rel=0.02)
        assert low["losses"] != full["losses"]


def test_what_cannot_be_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="half precision"):
        tiny.tiny_train(tmp_path, 2, precision="16")
    step = DetectionStep(tiny.TinyDetector().requires_grad_(False))
    with pytest.raises(ValueError, match="no parameter to train"):
        tiny.tiny_train(tmp_path, 2, step=step)
    with pytest.raises(ValueError, match="batches of 2"):
        train(step, tiny.tiny_loader(4), tiny.tiny_schedule(2, batch_size=2), tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no usable NVIDIA GPU"):
            train(
                DetectionStep(tiny.TinyDetector()), tiny.tiny_loader(), tiny.tiny_schedule(2), tmp_path, device="cuda"
            )


def test_each_step_and_process_has_its_own_random_numbers() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(4)}
    assert len(seeds) == 3 * 50 * 4
