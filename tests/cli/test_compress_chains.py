"""Chains from end to end by the command line: each step's file is the next one's, and the last knows of all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinydet.packed import read_packed
from tinydet.training.checkpoint import load_checkpoint

_LARGE = 1024
"""Weights beyond which export keeps shared values apart from the normalization's scale."""


def done(ran: Any) -> Any:
    assert ran.status == 0, ran.err
    return ran


def weight_tensors(path: Path, kind: str) -> list[np.ndarray]:
    """The tensors of a packed detector that can be weights of convolutions and fully connected layers."""
    tensors = read_packed(path).tensors.values()
    return [tensor for tensor in tensors if tensor.dtype == kind and tensor.ndim in (2, 4) and tensor.size > 64]


@pytest.fixture
def pruned(cli, trained, tmp_path) -> Path:
    arguments = ("--out", tmp_path / "pruned", "--block", "all", "--sparsity", 0.3, "--scope", "local")
    done(cli("prune", trained, *arguments))
    return tmp_path / "pruned"


@pytest.mark.slow
def test_prune_share_export_detect(cli, pruned, photos, tmp_path):
    shared, file, found = tmp_path / "shared", tmp_path / "small.tinydet", tmp_path / "found.jsonl"
    done(cli("share", pruned, "--out", shared, "--bits", 3))
    done(cli("export", pruned, "-o", tmp_path / "pruned.tinydet", "--data", photos))
    done(cli("export", shared, "-o", file, "--data", photos))
    done(cli("detect", file, photos, "--json", found, "--engine", "onnxruntime"))
    assert len(found.read_text().splitlines()) == 6  # photographs
    assert file.stat().st_size < 0.8 * (tmp_path / "pruned.tinydet").stat().st_size
    done(cli("inspect", file, "--json", tmp_path / "inside.json"))
    inside = json.loads((tmp_path / "inside.json").read_text())
    assert [step["step"] for step in inside["metadata"]["compression"]] == ["prune", "share"]
    before = inside["metadata"]["compression"][0]["metrics_before"]
    assert before == load_checkpoint(trained_of(pruned))[1].metrics
    weights = weight_tensors(file, "float32")
    assert len(weights) > 15
    assert all(0.25 < (tensor == 0).mean() < 0.35 for tensor in weights)
    large = [tensor for tensor in weights if (tensor != 0).sum() > _LARGE]
    assert len(large) >= 3
    assert all(len(np.unique(tensor[tensor != 0])) <= 8 for tensor in large)
    codings = [tensor["coding"] for tensor in inside["tensors"] if tensor["original_bytes"] > 8 * _LARGE]
    assert codings
    assert all("codebook of 8" in coding for coding in codings)


def trained_of(checkpoint: Path) -> Path:
    """What a checkpoint was pruned from."""
    return Path(load_checkpoint(checkpoint)[1].extra["compression"][0]["parent"])


@pytest.mark.slow
def test_prune_quantize_benchmark(cli, trained, pruned, photos, tmp_path):
    plain, small, sparse = (tmp_path / f"{name}.tinydet" for name in ("float", "int8", "sparse_int8"))
    done(cli("export", trained, "-o", plain, "--data", photos))
    usual = ("--data", photos, "--calibration-images", 2, "--tolerance", 1)
    done(cli("quantize", trained, *usual, "-o", small))
    done(cli("quantize", pruned, *usual, "-o", sparse, "--json", tmp_path / "int8.json"))
    assert sparse.stat().st_size < small.stat().st_size < 0.9 * plain.stat().st_size
    weights = weight_tensors(sparse, "int8")
    assert all((tensor == 0).mean() > 0.25 for tensor in weights)
    assert [step["step"] for step in read_packed(sparse).metadata["compression"]] == ["prune", "int8"]
    figures = tmp_path / "speed.json"
    done(cli("benchmark", plain, small, sparse, "--data", photos, "--rounds", 1, "--count", 2, "--json", figures))
    models = json.loads(figures.read_text())["models"]
    assert [model["file_bytes"] for model in models] == [path.stat().st_size for path in (plain, small, sparse)]
    assert all(model["times_ms"]["1"]["network"]["median_ms"] > 0 for model in models)


@pytest.mark.slow
def test_share_quantize(cli, trained, photos, tmp_path):
    """The few values of a layer stay few in each channel, and with --aware they are trained as few."""
    shared, file = tmp_path / "shared", tmp_path / "int8.tinydet"
    done(cli("share", trained, "--out", shared, "--bits", 2))
    usual = ("--data", photos, "--calibration-images", 2, "--tolerance", 1, "-o", file)
    done(cli("quantize", shared, *usual))
    assert [step["step"] for step in read_packed(file).metadata["compression"]] == ["share", "int8"]
    layers = [tensor for tensor in weight_tensors(file, "int8") if tensor.shape[-1] != 7]  # the first one's are scaled
    for tensor in layers:
        assert max(len(np.unique(channel[channel != 0])) for channel in tensor) <= 4
    done(cli("quantize", shared, *usual, "--aware", 2, "--device", "cpu"))
    detector, _ = load_checkpoint(tmp_path / "int8_aware")
    original, _ = load_checkpoint(shared)
    name = "backbone.layer2.0.conv1.weight"
    learnt, before = detector.get_parameter(name), original.get_parameter(name)
    assert len(learnt.unique()) <= 4
    assert not learnt.equal(before)


def test_pruning_what_is_shared_keeps_it_so(cli, trained, photos, tmp_path):
    shared, pruned = tmp_path / "shared", tmp_path / "pruned"
    done(cli("share", trained, "--out", shared, "--bits", 4))
    tuned = ("--data", photos, "--iterations", 2, "--device", "cpu", "--learning-rate", 0.01)
    done(cli("prune", shared, "--out", pruned, "--sparsity", 0.5, *tuned))
    detector, info = load_checkpoint(pruned)
    assert [step["step"] for step in info.extra["compression"]] == ["share", "prune"]
    before, _ = load_checkpoint(shared)
    name = "backbone.layer2.0.conv1.weight"
    weight = detector.get_parameter(name)
    assert 1 < len(weight.unique()) <= 17
    assert not set(weight.unique().tolist()) <= set(before.get_parameter(name).unique().tolist()) | {0.0}  # they learnt
    backbone = [t for n, t in detector.named_parameters() if n.startswith("backbone.") and t.ndim == 4]
    zeros, weights = sum(int((t == 0).sum()) for t in backbone), sum(t.numel() for t in backbone)
    assert zeros == round(0.5 * weights)


@pytest.mark.parametrize("options", [("--method", "lasso"), ("--method", "taylor"), ("--gradual", 2)])
def test_what_would_end_sharing_is_refused(cli, trained, photos, tmp_path, options):
    done(cli("share", trained, "--out", tmp_path / "shared"))
    arguments = ("--out", tmp_path / "out", "--data", photos, "--iterations", 4, *options)
    ran = cli("prune", tmp_path / "shared", *arguments)
    assert ran.status == 2
    assert "prune first, then share" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["prune", "share", "quantize"])
def test_an_exported_file_is_the_end_of_a_chain(cli, photos, tmp_path, verb):
    (tmp_path / "int8.tinydet").write_bytes(b"")
    data = ("--data", photos) if verb == "quantize" else ()
    ran = cli(verb, tmp_path / "int8.tinydet", "--out", tmp_path / "out.tinydet", *data)
    assert ran.status == 2
    assert "give the folder of the checkpoint" in ran.err
