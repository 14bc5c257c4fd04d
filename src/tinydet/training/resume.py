"""What a run stores of itself to go on, and how it is given back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinydet.config import to_plain
from tinydet.errors import InputError
from tinydet.files import recovered_folder
from tinydet.training.checkpoint import (
    BEST,
    LAST,
    TrainingState,
    fill_module,
    read_config,
    read_state,
    read_tensors,
)
from tinydet.training.ema import MovingAverage

DETECTOR = "detector."


@dataclass(frozen=True, eq=False)
class Resumed:
    """A run's `last` checkpoint.

    Attributes:
        weights: of the detector, as saved: the average where there is one.
        step_tensors: the step's own, beside the detector's.
        state: None where the run has ended.
    """

    folder: Path
    weights: dict[str, Tensor]
    step_tensors: dict[str, Tensor]
    state: TrainingState | None


def read_resumed(out_dir: Path, description: Mapping[str, Any], detector_config: Any) -> Resumed | None:
    """The run that `out_dir` holds, None where it holds none; what a killed run left half-written is put right.

    Raises:
        InputError: the run there is another one (the fields that differ are named), or its checkpoint is damaged.
    """
    for name in (BEST, LAST):
        recovered_folder(out_dir / name)
        for partial in out_dir.glob(f".{name}.*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
    last = out_dir / LAST
    if not last.is_dir():
        return None
    content = read_config(last)
    there = {"detector": content["detector"], **content.get("run", {}).get("training", {})}
    here = {"detector": to_plain(detector_config), **to_plain(dict(description))}
    if "origin" not in there:
        here.pop("origin", None)  # earlier versions did not say
    if differences := list(_differences(there, here)):
        shown = "\n  ".join(differences[:10])
        raise InputError(
            f"{out_dir}: holds another run; use another folder, or delete this one. What differs:\n  {shown}"
        )
    beside = last / "step.safetensors"
    return Resumed(
        folder=last,
        weights=read_tensors(last / "model.safetensors"),
        step_tensors=read_tensors(beside) if beside.exists() else {},
        state=read_state(last),
    )


def restore_weights(resumed: Resumed, step: nn.Module) -> None:
    """Give the step and its detector their weights back, those trained where the run goes on.

    Raises:
        InputError: the tensors are not the step's.
    """
    trained = resumed.state and resumed.state.weights
    detector = {f"{DETECTOR}{name}": tensor for name, tensor in (trained or resumed.weights).items()}
    fill_module(step, detector | resumed.step_tensors, resumed.folder)


def restore_state(
    resumed: Resumed,
    step: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    scaler: torch.amp.GradScaler | None,
) -> None:
    """Give back the momentum, the moving average and the gradient scaler of a run that goes on."""
    assert resumed.state is not None
    for name, parameter in step.named_parameters():
        if name in resumed.state.momentum:
            momentum = resumed.state.momentum[name].to(parameter.device)
            optimizer.state[parameter]["momentum_buffer"] = momentum
    if average:
        average.load(resumed.weights)
    if scaler and resumed.state.scaler:
        scaler.load_state_dict(resumed.state.scaler)


def capture_state(
    done: int,
    best_score: float | None,
    step: Any,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    scaler: torch.amp.GradScaler | None,
) -> TrainingState:
    """All that `restore_state` and `restore_weights` give back; taken while the detector has its trained weights."""
    momentum = {}
    for name, parameter in step.named_parameters():
        buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
        if buffer is not None:
            momentum[name] = buffer
    weights = (
        {name: tensor.detach().clone() for name, tensor in step.detector.state_dict().items()} if average else None
    )
    return TrainingState(done, best_score, momentum, weights, scaler.state_dict() if scaler else {})


def step_tensors(step: nn.Module) -> dict[str, Tensor]:
    """The weights of a step that are not its detector's."""
    return {name: tensor for name, tensor in step.state_dict().items() if not name.startswith(DETECTOR)}


def _differences(there: Any, here: Any, path: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from _differences(there.get(key), here.get(key), f"{path}.{key}" if path else key)
    elif there != here:
        yield f"{path}: {there!r} there, {here!r} now"
