"""`--start` on a compressed checkpoint: what was done to its weights lasts, and the list of it goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tinydet.compression import KeptCompression
from tinydet.prune.fine_tuning import MaskedStep
from tinydet.prune.layers import weighted_layers
from tinydet.sharing import SharedStep
from tinydet.training.checkpoint import load_checkpoint
from tinydet.training.steps import DetectionStep

SHORT = ("--iterations", "3", "--learning-rate", "0.01", "--batch-size", "1", "--device", "cpu")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Of every convolution and fully connected layer."""
    detector, _ = load_checkpoint(folder)
    return {
        name: layer.weight.detach()
        for block in detector.blocks()
        for name, layer in weighted_layers(detector, block).items()
    }


def zeros_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: weight == 0 for name, weight in weights_of(folder).items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def pruned(cli, trained, tmp_path) -> Path:
    """Half of all weights gone."""
    out = tmp_path / "pruned"
    ran = cli("prune", trained, "--out", out, "--block", "all", "--sparsity", "0.5")
    assert ran.status == 0, ran.err
    return out


def test_pruned_weights_stay_zero_and_the_list_goes_on(cli, trained, pruned, tmp_path):
    data, out = trained.parent / "photos", tmp_path / "run"
    ran = cli("train", "--data", data, "--out", out, "--start", pruned, "--ema", "0.9", *SHORT)
    assert ran.status == 0, ran.err
    assert "it was pruned: its " in ran.err
    zeros = zeros_of(pruned)
    for checkpoint in (out / "best", out / "last"):
        assert same(zeros_of(checkpoint), zeros)
    assert not same(weights_of(out / "last"), weights_of(pruned))
    recorded = load_checkpoint(pruned)[1].extra["compression"]
    assert [entry["step"] for entry in recorded] == ["prune"]
    assert load_checkpoint(out)[1].extra["compression"] == recorded

    again = cli("train", "--data", data, "--out", tmp_path / "longer", "--start", out, *SHORT)
    assert again.status == 0, again.err
    assert same(zeros_of(tmp_path / "longer" / "last"), zeros)


@pytest.mark.slow
def test_the_exported_file_says_it(cli, trained, pruned, tmp_path):
    data, out = trained.parent / "photos", tmp_path / "run"
    assert cli("train", "--data", data, "--out", out, "--start", pruned, *SHORT).status == 0
    ran = cli("export", out, "--out", tmp_path / "small.tinydet")
    assert ran.status == 0, ran.err
    ran = cli("inspect", tmp_path / "small.tinydet", "--json", tmp_path / "inside.json")
    assert ran.status == 0, ran.err
    assert "prune" in ran.out
    assert '"step": "prune"' in (tmp_path / "inside.json").read_text()


def test_a_student_whose_backbone_is_shared_and_whose_heads_are_pruned(cli, trained, pruned, tmp_path):
    shared, out = tmp_path / "shared", tmp_path / "run"
    ran = cli("share", pruned, "--out", shared, "--bits", "2", "--block", "backbone")
    assert ran.status == 0, ran.err
    ran = cli(
        *("mimic", "--data", trained.parent / "photos", "--out", out, "--teacher", trained, "--start", shared),
        *("--regions", "8", *SHORT),
    )
    assert ran.status == 0, ran.err
    assert "each layer keeps its few values" in ran.err
    before, after = weights_of(shared), weights_of(out / "last")
    assert same(zeros_of(out / "last"), zeros_of(shared))
    assert not same(before, after)
    name = "backbone.layer3.1.conv2"
    assert len(before[name].unique()) <= 5
    assert len(after[name].unique()) <= 5  # zero and four values
    assert not torch.equal(before[name], after[name])
    steps = [entry["step"] for entry in load_checkpoint(out)[1].extra["compression"]]
    assert steps == ["prune", "share"]


def test_one_trained_for_int8_is_trained_on_with_a_warning(cli, trained, tmp_path):
    parent = Path(shutil.copytree(trained / "last", tmp_path / "aware"))
    config = json.loads((parent / "config.json").read_text())
    aware = {"type": "QuantizationAwareStep", "config": {"step": {"type": "DetectionStep"}, "weight_bits": 7}}
    config["run"]["training"]["step"] = {"type": "MaskedStep", "config": {"step": aware, "gradual": None}}
    (parent / "config.json").write_text(json.dumps(config))
    ran = cli("train", "--data", trained.parent / "photos", "--out", tmp_path / "run", "--start", parent, *SHORT)
    assert ran.status == 0, ran.err
    assert "fine-tune again with `tinydet quantize --aware`" in ran.err


def test_a_plain_checkpoint_is_trained_on_plainly(cli, trained, tmp_path):
    ran = cli("train", "--data", trained.parent / "photos", "--out", tmp_path / "run", "--start", trained, *SHORT)
    assert ran.status == 0, ran.err
    assert "what this starts from" not in ran.err
    run = load_checkpoint(tmp_path / "run")[1].extra
    assert run["training"]["step"]["type"] == "DetectionStep"
    assert "compression" not in run


def test_what_the_list_asks_for(trained):
    detector, _ = load_checkpoint(trained)
    step = DetectionStep(detector)
    assert KeptCompression().keeping(step) == (step, [])
    assert KeptCompression(({"step": "prune"},)).keeping(step) == (step, [])  # by channels: nothing is zero
    kept, said = KeptCompression(({"step": "share"}, "odd")).keeping(step)
    assert kept is step
    assert "`tinydet share` it again" in said[0]
    with torch.no_grad():
        detector.heads.class_scores.weight[:, ::2] = 0
        detector.backbone.conv1.weight.clamp_(-0.01, 0.01).round_(decimals=2)
    kept, said = KeptCompression(({"step": "prune"}, {"step": "share"})).keeping(step)
    assert isinstance(kept, MaskedStep)
    assert isinstance(kept._step[0], SharedStep)
    assert len(said) == 2
    assert KeptCompression.of_run({"compression": "text", "training": None}) == KeptCompression()


def test_options_of_the_network_beside_a_start_are_refused(cli, trained, tmp_path):
    command = ("train", "--data", trained.parent / "photos", "--out", tmp_path / "run", "--start", trained, *SHORT)
    for options, message in (
        (("--hardest", "64"), "hardest 64: with --start the network is that of"),
        (("--groups", "2"), "groups 2: with --start"),
        (("--weights", "coco"), "give one of them"),
        (("--width", "1"), "--width 1.0: with --start the network is that of"),
        (("--backbone", "vgg16"), "which has resnet18: leave it out"),
        (("--detector", "ssd"), "--detector ssd: with --start"),
        (("--shorter-side", "600"), "which has 64: leave it out"),
        (("--gray",), "--gray True: with --start"),
        (("--norm", "frozen"), "--norm frozen: with --start"),
    ):
        ran = cli(*command, *options)
        assert ran.status == 2
        assert message in ran.err


def test_options_that_say_what_the_start_is_are_welcome(cli, trained, tmp_path):
    command = ("train", "--data", trained.parent / "photos", "--out", tmp_path / "run", "--start", trained, *SHORT)
    words = ("--width", "32", "--shorter-side", "64", "--detector", "faster_rcnn", "--backbone", "resnet18")
    ran = cli(*command, *words, "--norm", "batch")
    assert ran.status == 0, ran.err


def test_a_run_does_not_go_on_from_another_start_or_teacher(cli, trained, pruned, tmp_path):
    data = trained.parent / "photos"
    for verb, option in (("train", "--start"), ("mimic", "--teacher")):
        out = tmp_path / verb
        size = () if verb == "train" else ("--width", "32", "--shorter-side", "64", "--regions", "8")
        command = (verb, "--data", data, "--out", out, *size, *SHORT, option)
        assert cli(*command, trained).status == 0
        before = weights_of(out / "last")
        again = cli(*command, trained / "best")  # the same by another name
        assert again.status == 0, again.err
        other = cli(*command, pruned)
        assert other.status == 2
        assert f"origin.{option[2:]}: " in other.err
        assert same(weights_of(out / "last"), before)


def test_a_run_that_an_earlier_version_began_goes_on(cli, trained, tmp_path):
    command = ("train", "--data", trained.parent / "photos", "--out", tmp_path / "run", "--start", trained, *SHORT)
    assert cli(*command).status == 0
    path = tmp_path / "run" / "last" / "config.json"
    config = json.loads(path.read_text())
    assert list(config["run"]["training"].pop("origin")) == ["start"]
    path.write_text(json.dumps(config))
    ran = cli(*command)
    assert ran.status == 0, ran.err


def test_the_mimic_loss_alone_leaves_the_test_split_closed(cli, trained, photos, tmp_path):
    """The images of the other split are damaged: `train` says so, `mimic --features-only` never looks."""
    data = yolo_of(photos, tmp_path / "yolo")
    for image in (data / "images" / "val").iterdir():
        image.write_bytes(image.read_bytes()[:-100])  # its size can be read, its pixels cannot
    ran = cli("train", "--data", data, "--out", tmp_path / "a", "--width", "32", "--shorter-side", "64", *SHORT)
    assert ran.status == 2
    assert "split 'val' has no usable image" in ran.err
    ran = cli(
        *("mimic", "--data", data, "--out", tmp_path / "b", "--teacher", trained, "--features-only"),
        *("--regions", "8", "--width", "32", "--shorter-side", "64", *SHORT),
    )
    assert ran.status == 0, ran.err
    assert "'val'" not in ran.err


def yolo_of(photos: Path, folder: Path) -> Path:
    """The same pictures with one box each, in YOLO's layout: four to train on, two to validate on."""
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index in numbers:
            shutil.copy(photos / f"photo{index}.png", folder / "images" / split)
            label = folder / "labels" / split / f"photo{index}.txt"
            label.write_text(f"{index % 2} 0.5 0.5 0.4 0.4\n")
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [green, red]\n")
    return folder
