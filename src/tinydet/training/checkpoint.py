"""Checkpoints: folders of plain files, written whole or not at all, and read without ever unpickling.

model.safetensors    the detector's weights, ready to be used
config.json          format, versions, classes, the detector's whole configuration, and what the run was (`run`);
                     where channels were taken out, `layer_channels`: the sizes of the layers that are not as configured
metrics.json         what was measured of these weights
step.safetensors     weights of the training step beside the detector's (a mimic's transform), where there are any
training/            while a run is under way: what it takes to go on as if it had never stopped
    momentum.safetensors, weights.safetensors (the trained weights, where model.safetensors is their average),
    state.json
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

import tinydet
from tinydet.config import from_plain, to_plain
from tinydet.errors import InputError
from tinydet.files import read_json, recovered_folder, replacing_folder, write_json

FORMAT = 1
BEST, LAST = "best", "last"


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    Attributes:
        folder: where it was read from.
        classes: names that labels index; empty where the model has none.
        metrics: the content of metrics.json.
        extra: what `save_checkpoint` was given: schedule, seed, step, recipe.
        version: of tinydet, that wrote it.
    """

    folder: Path
    classes: tuple[str, ...]
    metrics: dict[str, Any]
    extra: dict[str, Any]
    version: str


@dataclass(frozen=True)
class TrainingState:
    """What a run needs to go on, beside the detector's weights.

    Attributes:
        step: steps done.
        best_score: of the best validation so far; None before the first.
        momentum: by parameter name.
        weights: the detector's trained weights where those saved are an average, else None.
        scaler: the state of the gradient scaler in half precision.
    """

    step: int
    best_score: float | None
    momentum: dict[str, Tensor]
    weights: dict[str, Tensor] | None = None
    scaler: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(
    folder: str | os.PathLike[str],
    detector: Any,
    *,
    metrics: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    step_tensors: Mapping[str, Tensor] | None = None,
    state: TrainingState | None = None,
) -> Path:
    """Write a checkpoint in the place of whatever is at `folder`.

    Args:
        detector: an `nn.Module` with a `config`.
        metrics: plain values, for metrics.json.
        extra: plain values, kept in config.json under `run`.

    Raises:
        TinydetError: it cannot be written; what was at `folder` is still there.
    """
    with replacing_folder(folder) as temporary:
        _save_tensors(temporary / "model.safetensors", detector.state_dict())
        write_json(temporary / "config.json", _described(detector, extra or {}))
        write_json(temporary / "metrics.json", dict(metrics or {}))
        if step_tensors:
            _save_tensors(temporary / "step.safetensors", step_tensors)
        if state:
            _save_state(temporary / "training", state)
    return Path(folder)


def load_checkpoint(folder: str | os.PathLike[str]) -> tuple[Any, CheckpointInfo]:
    """The detector of a checkpoint, on the CPU, in evaluation mode; or of a run's folder, its best or else its last.

    Raises:
        InputError: there is no checkpoint, it is damaged, of a newer version, or its tensors are not those that its
            configuration asks for; the message names the file and the tensors.
    """
    from tinydet.detectors import DetectorConfig, build_detector

    path = checkpoint_in(folder)
    content = read_config(path)
    config: Any = from_plain(DetectorConfig, content["detector"], f"{path / 'config.json'}: detector")  # type: ignore
    try:
        with torch.random.fork_rng(devices=[]):  # building draws weights that are overwritten at once
            detector = build_detector(config)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path / 'config.json'}: no detector can be built from `detector`: {error}") from error
    if channels := content.get("layer_channels"):
        _resize(detector, channels, path / "config.json")
    load_weights(detector, path)
    return detector.eval(), read_info(path)


def _resize(detector: Any, channels: Any, file: Path) -> None:
    from tinydet.detectors.layer_channels import resize_layers

    if not isinstance(channels, dict) or not all(isinstance(counts, list) for counts in channels.values()):
        raise InputError(f"{file}: layer_channels: expected an object with a list of channel counts for each layer")
    try:
        resize_layers(detector, channels)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def checkpoint_in(folder: str | os.PathLike[str]) -> Path:
    """The checkpoint that `folder` is, or that it holds as `best` or `last`.

    Raises:
        InputError: there is none.
    """
    path = recovered_folder(folder)
    if not path.is_dir():
        raise InputError(f"{path}: no such checkpoint; a checkpoint is a folder with model.safetensors and config.json")
    for candidate in (path, recovered_folder(path / BEST), recovered_folder(path / LAST)):
        if (candidate / "config.json").is_file():
            return candidate
    raise InputError(f"{path}: not a checkpoint: neither it nor its {BEST} or {LAST} has a config.json")


def fingerprint(source: str | os.PathLike[str]) -> str:
    """What tells weights apart that a run began from: a checksum of a checkpoint's or a file's, else the text itself.

    Raises:
        InputError: a folder without a checkpoint.
    """
    path = Path(source)
    if path.is_dir():
        path = checkpoint_in(path) / "model.safetensors"
    if not path.is_file():
        return str(source)  # a URL, or a word for one
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def read_config(path: Path) -> dict[str, Any]:
    """The content of a checkpoint's config.json, its format checked.

    Raises:
        InputError: it is missing, no JSON, or of a format that this version does not read.
    """
    file = path / "config.json"
    content = read_json(file)
    found = content.get("format") if isinstance(content, dict) else None
    if not isinstance(found, int) or not isinstance(content.get("detector"), dict):
        raise InputError(f"{file}: not a checkpoint's configuration: it has no number `format` or no object `detector`")
    if found > FORMAT:
        raise InputError(
            f"{file}: format {found}, written by tinydet {content.get('tinydet')}; this is tinydet "
            f"{tinydet.__version__}, which reads up to format {FORMAT}: upgrade tinydet"
        )
    if not isinstance(content.get("run", {}), dict) or not isinstance(content.get("classes", []), list):
        raise InputError(f"{file}: `run` is no object, or `classes` no list; put back the file as it was written")
    if found < 1:
        raise InputError(f"{file}: format {found} was never written by tinydet; the first is 1")
    return content


def read_info(path: Path) -> CheckpointInfo:
    """What the checkpoint at exactly `path` says of itself."""
    content = read_config(path)
    metrics = path / "metrics.json"
    return CheckpointInfo(
        folder=path,
        classes=tuple(content.get("classes", ())),
        metrics=read_json(metrics) if metrics.exists() else {},
        extra=content.get("run", {}),
        version=str(content.get("tinydet")),
    )


def load_weights(module: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Give `module` the weights in a checkpoint's model.safetensors.

    Raises:
        InputError: the file is damaged, or its tensors are not the module's.
    """
    file = checkpoint_in(folder) / "model.safetensors"
    fill_module(module, read_tensors(file), file)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        InputError: it is missing, truncated or something else.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; the checkpoint is incomplete")
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file}: truncated, or not a safetensors file: {error}") from error


def fill_module(module: nn.Module, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """`load_state_dict`, refusing what does not fit before anything is changed.

    Raises:
        InputError: tensors are missing, unknown, or of another shape; each is named.
    """
    wanted = module.state_dict()
    faults = []
    if missing := sorted(wanted.keys() - tensors.keys()):
        faults.append(f"missing: {_listed(missing)}")
    if unknown := sorted(tensors.keys() - wanted.keys()):
        faults.append(f"unknown: {_listed(unknown)}")
    if shapes := [
        f"{name} is {list(tensors[name].shape)}, expected {list(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    ]:
        faults.append(f"of another shape: {_listed(shapes)}")
    if faults:
        raise InputError(f"{where}: not the weights of this {type(module).__name__}; tensors {'; '.join(faults)}")
    module.load_state_dict(dict(tensors))


def read_state(path: Path) -> TrainingState | None:
    """The training state at exactly `path`; None where its run has ended.

    Raises:
        InputError: it is damaged.
    """
    folder = path / "training"
    if not folder.is_dir():
        return None
    file = folder / "state.json"
    content = read_json(file)
    try:
        weights = folder / "weights.safetensors"
        return TrainingState(
            step=int(content["step"]),
            best_score=content["best_score"],
            momentum=read_tensors(folder / "momentum.safetensors"),
            weights=read_tensors(weights) if weights.exists() else None,
            scaler=content["scaler"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: not a training state: {error!r}") from error


def _save_state(folder: Path, state: TrainingState) -> None:
    folder.mkdir()
    _save_tensors(folder / "momentum.safetensors", state.momentum)
    if state.weights is not None:
        _save_tensors(folder / "weights.safetensors", state.weights)
    write_json(folder / "state.json", {"step": state.step, "best_score": state.best_score, "scaler": state.scaler})


def _save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    # Copies: the format refuses tensors that share memory. Written here, since `save_file` lets only the owner read.
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    with open(file, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())


def _described(detector: Any, extra: Mapping[str, Any]) -> dict[str, Any]:
    channels = getattr(detector, "layer_channels", None)
    return {
        "format": FORMAT,
        "tinydet": tinydet.__version__,
        "torch": torch.__version__,
        "classes": list(getattr(detector.config, "classes", ())),
        "detector": to_plain(detector.config),
        **({"layer_channels": to_plain(channels)} if channels else {}),
        "run": to_plain(dict(extra)),
    }


def _listed(names: list[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
