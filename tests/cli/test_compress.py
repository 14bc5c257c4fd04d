from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tinydet.backbones import ResNetConfig
from tinydet.cli import main
from tinydet.detectors import FasterRCNNConfig, build_detector
from tinydet.preprocessing import Preprocessing
from tinydet.prune.layers import layer_sparsities
from tinydet.training import load_checkpoint, save_checkpoint

XML = """<annotation><filename>{name}.jpg</filename><size><width>96</width><height>64</height><depth>3</depth></size>
<object><name>cell</name><bndbox><xmin>10</xmin><ymin>8</ymin><xmax>60</xmax><ymax>50</ymax></bndbox></object>
</annotation>"""


def tinydet(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["tinydet", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    detector = build_detector(FasterRCNNConfig(("cell",), ResNetConfig(18, 16), Preprocessing(64, 96)))
    return save_checkpoint(tmp_path / "parent", detector, metrics={"mAP": 0.5}, extra={"seed": 7})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "cells"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    names = [f"c{index}" for index in range(6)]
    random = np.random.default_rng(0)
    for name in names:
        Image.fromarray(random.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(folder / f"JPEGImages/{name}.jpg")
        (folder / f"Annotations/{name}.xml").write_text(XML.format(name=name))
    (folder / "ImageSets/Main/train.txt").write_text("\n".join(names[:4]))
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(names[4:]))
    return folder


def test_a_chain_carries_along_what_was_done_and_measured(monkeypatch, checkpoint: Path, data: Path, tmp_path: Path):
    pruned, shared, figures = tmp_path / "pruned", tmp_path / "shared", tmp_path / "figures.json"
    arguments = ("prune", checkpoint, "--out", pruned, "--block", "backbone,heads", "--sparsity", 0.4)
    fine = ("--data", data, "--iterations", 2, "--learning-rate", 0.001, "--device", "cpu")
    assert tinydet(monkeypatch, *arguments, *fine) == 0
    assert tinydet(monkeypatch, "share", pruned, "--out", shared, "--bits", 3, "--json", figures, *fine) == 0
    detector, info = load_checkpoint(shared)
    steps = info.extra["compression"]
    assert [step["step"] for step in steps] == ["prune", "share"]
    assert steps[0]["metrics_before"] == {"mAP": 0.5}
    assert steps[0]["config"]["sparsity"] == 0.4
    assert steps[1]["config"] == {"type": "ShareConfig", "bits": 3, "blocks": "all"}
    assert "mAP" in steps[1]["metrics_before"]
    assert info.extra["seed"] == 7
    rows = layer_sparsities(detector)
    for block in ("backbone", "heads"):
        own = [row for row in rows if row.block == block]
        assert sum(row.zeros for row in own) == round(0.4 * sum(row.weights for row in own))
    assert all(len(detector.get_submodule(row.layer).weight.unique()) <= 9 for row in rows if row.weights > 9)
    content = json.loads(figures.read_text())
    assert content["after"]["packed_bytes"] < 0.4 * content["before"]["packed_bytes"]
    assert content["metrics"] == info.metrics


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "ln", "--remove"),
        ("--method", "taylor", "--rounds", 2, "--batches", 1, "--iterations", 2, "--data"),
        ("--method", "lasso", "--batches", 1, "--data"),
    ],
)
def test_channels_are_taken_out(monkeypatch, checkpoint: Path, data: Path, tmp_path: Path, options):
    if options[-1] == "--data":
        options = (*options, data, "--device", "cpu")
    out, figures = tmp_path / "smaller", tmp_path / "figures.json"
    arguments = ("prune", checkpoint, "--out", out, "--block", "all", "--sparsity", 0.5, "--json", figures)
    assert tinydet(monkeypatch, *arguments, "--scope", "local", *options) == 0
    content = json.loads(figures.read_text())
    assert content["after"]["multiply_adds"] < 0.7 * content["before"]["multiply_adds"]
    assert content["after"]["parameters"] < content["before"]["parameters"]
    detector, _ = load_checkpoint(out)
    assert detector.feature_channels == (8,)
    assert sum(p.numel() for p in detector.parameters()) == content["after"]["parameters"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sparsity", 2), "sparsity 2.0"),
        (("--block", "neck"), "'neck'"),
        (("--iterations", 5), "needs --data"),
        (("--method", "taylor"), "give --data"),
        (("--to-width", 32), "goes with --method lasso"),
        (("--gradual", 3), "--gradual goes with masks"),
    ],
)
def test_a_mistake_is_one_message(monkeypatch, capsys, checkpoint: Path, tmp_path: Path, options, message: str):
    assert tinydet(monkeypatch, "prune", checkpoint, "--out", tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_parent_is_never_overwritten(monkeypatch, capsys, checkpoint: Path):
    assert tinydet(monkeypatch, "share", checkpoint, "--out", checkpoint) == 2
    assert "another folder" in capsys.readouterr().err
