"""Checkpoints come back as they were, and every kind of damage is named."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tinydet.backbones import ResNetConfig
from tinydet.detectors import FasterRCNNConfig, build_detector
from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing
from tinydet.training import load_checkpoint, load_weights, save_checkpoint
from tinydet.training.checkpoint import TrainingState, checkpoint_in, read_state

CONFIG = FasterRCNNConfig(("cat", "dog"), ResNetConfig(18, 16), Preprocessing(shorter_side=64, longer_side=64))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    return save_checkpoint(
        tmp_path / "student", build_detector(CONFIG), metrics={"mAP": 0.5}, extra={"recipe": "digits", "seed": 4}
    )


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_comes_back_as_it_was(saved: Path) -> None:
    torch.manual_seed(1)
    original = build_detector(CONFIG)
    torch.manual_seed(2)
    expected = torch.rand(2)
    torch.manual_seed(2)
    detector, info = load_checkpoint(saved)
    assert torch.equal(torch.rand(2), expected), "loading drew random numbers"
    assert detector.config == CONFIG
    assert not detector.training
    assert detector.state_dict().keys() == original.state_dict().keys()
    for name, weight in original.state_dict().items():
        assert torch.equal(detector.state_dict()[name], weight), name
    assert (info.classes, info.metrics) == (("cat", "dog"), {"mAP": 0.5})
    assert info.extra == {"recipe": "digits", "seed": 4}
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "metrics.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1, "some files can be read by fewer people"


def test_a_runs_folder_gives_its_best(saved: Path) -> None:
    run = saved.parent
    saved.rename(run / "last")
    assert checkpoint_in(run) == run / "last"
    save_checkpoint(run / "best", build_detector(CONFIG))
    assert checkpoint_in(run) == run / "best"


def test_a_checkpoint_moved_aside_by_a_kill_is_found(saved: Path) -> None:
    saved.rename(saved.with_name(".student.previous"))
    assert load_checkpoint(saved)[1].metrics == {"mAP": 0.5}


def test_writing_over_one_keeps_it_when_it_fails(saved: Path) -> None:
    with pytest.raises(TypeError):
        save_checkpoint(saved, build_detector(CONFIG), metrics={"x": object()})
    assert load_checkpoint(saved)[1].metrics == {"mAP": 0.5}
    assert [path.name for path in saved.parent.iterdir()] == ["student"]


def test_training_state_comes_back(saved: Path, tiny: ModuleType) -> None:
    state = TrainingState(7, 0.25, {"a": torch.rand(3)}, {"b": torch.rand(2)}, {"scale": 2.0})
    save_checkpoint(saved, tiny.TinyDetector(), state=state, step_tensors={"r": torch.ones(1)})
    read = read_state(saved)
    assert read is not None
    assert (read.step, read.best_score, read.scaler) == (7, 0.25, {"scale": 2.0})
    assert torch.equal(read.momentum["a"], state.momentum["a"])
    assert read.weights is not None
    assert state.weights is not None
    assert torch.equal(read.weights["b"], state.weights["b"])
    (saved / "training" / "state.json").write_text('{"step": "x"}')
    with pytest.raises(InputError, match=r"state\.json: not a training state"):
        read_state(saved)


def test_tensors_that_do_not_fit_are_named(saved: Path) -> None:
    file = saved / "model.safetensors"
    tensors = load_file(file)
    first, second, *_ = tensors
    tensors["surplus.weight"] = tensors.pop(first)
    tensors[second] = torch.zeros(99)
    save_file(tensors, file)
    with pytest.raises(InputError) as error:
        load_checkpoint(saved)
    assert f"{file}: not the weights of this FasterRCNN" in str(error.value)
    assert f"missing: {first}" in str(error.value)
    assert "unknown: surplus.weight" in str(error.value)
    assert f"of another shape: {second} is [99], expected [" in str(error.value)


def test_a_wrong_file_leaves_the_module_alone(saved: Path, tiny: ModuleType) -> None:
    detector = tiny.TinyDetector()
    before = {name: weight.clone() for name, weight in detector.state_dict().items()}
    with pytest.raises(InputError, match=r"and .* more"):
        load_weights(detector, saved)
    assert all(torch.equal(weight, before[name]) for name, weight in detector.state_dict().items())


@pytest.mark.parametrize("kept", [0, 5, 100, -10])
def test_a_truncated_file_is_named(saved: Path, kept: int) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"model\.safetensors: truncated"):
        load_checkpoint(saved)


def test_missing_parts_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such checkpoint"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: not a checkpoint"):
        load_checkpoint(tmp_path / "empty")
    (saved / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2, "tinydet": "9.9"}, "format 2, written by tinydet 9.9.*upgrade"),
        ({"format": 0}, "format 0 was never written"),
        ({"format": "1"}, "no number `format`"),
        ({"detector": None}, "no object `detector`"),
        ({"detector": {"type": "YOLOConfig"}}, r"config\.json: detector: .*YOLOConfig"),
    ],
)
def test_a_wrong_configuration_is_named(saved: Path, changes: dict[str, Any], message: str) -> None:
    edit(saved / "config.json", **changes)
    with pytest.raises(InputError, match=message):
        load_checkpoint(saved)


def test_a_field_of_the_configuration_is_named(saved: Path) -> None:
    content = json.loads((saved / "config.json").read_text())
    content["detector"]["preprocessing"]["shorter_side"] = "big"
    (saved / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"detector: preprocessing\.shorter_side: found str 'big', expected int"):
        load_checkpoint(saved)
    (saved / "config.json").write_text('{"format": 1,\n "det')
    with pytest.raises(InputError, match=r"config\.json:2: not valid JSON"):
        load_checkpoint(saved)
