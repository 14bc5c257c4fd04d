import json

import numpy as np
import pytest
import torch
import typer.testing
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional as F

from tinydet.backbones import MobileNetConfig, ResNetConfig, VGGConfig
from tinydet.backbones.pretrained import load_pretrained, pretrained_preprocessing
from tinydet.backbones.weight_files import open_weights
from tinydet.cli import _register_verbs, app
from tinydet.data.batch import Batch, Target
from tinydet.detectors import FasterRCNN, FasterRCNNConfig
from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing
from tinydet.pretraining import (
    ClassificationConfig,
    ClassificationStep,
    Classifier,
    ClassifierConfig,
    random_windows,
    save_backbone,
)

_register_verbs()


def make_batch(images, labels):
    size = tuple(images.shape[-2:])
    box = torch.tensor([[0.0, 0, size[1], size[0]]])
    targets = tuple(Target(box, torch.tensor([label]), torch.zeros(0, 4)) for label in labels)
    names = tuple(map(str, range(len(labels))))
    return Batch(images, (size,) * len(labels), (size,) * len(labels), targets, names, names)


@pytest.mark.parametrize(
    "backbone",
    [ResNetConfig(18, 16), ResNetConfig(50, 32), VGGConfig(32, "none"), VGGConfig(32, groups=2), MobileNetConfig(8)],
)
def test_what_a_classifier_learns_a_detector_starts_from(backbone, tmp_path):
    torch.manual_seed(0)
    preprocessing = Preprocessing(fixed_size_hw=(64, 64), channels="gray", mean=(100.0,), std=(50.0,))
    classifier = Classifier(ClassifierConfig(("a", "b", "c"), backbone, preprocessing))
    step = ClassificationStep(classifier, ClassificationConfig(least_crop=1.0, label_smoothing=0.0)).train()
    batch = make_batch(torch.rand(4, 1, 64, 64) * 255, [0, 2, 1, 1])
    loss = step(batch)["class"]
    loss.backward()
    assert [n for n, p in classifier.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    with torch.no_grad():
        expected = F.nll_loss(classifier(batch).log_softmax(dim=1), torch.tensor([0, 2, 1, 1]))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-3)

    save_backbone(tmp_path / "w.safetensors", classifier)
    wanted = pretrained_preprocessing(
        Preprocessing(channels="gray", mean=(1.0,), std=(1.0,)), backbone, tmp_path / "w.safetensors"
    )
    assert (wanted.mean, wanted.std) == ((100.0,), (50.0,))
    detector = FasterRCNN(FasterRCNNConfig(("x",), backbone, wanted))
    result = load_pretrained(detector, tmp_path / "w.safetensors")
    assert (result.missing, result.unused, result.wrong_shape) == ((), (), ())
    theirs = classifier.state_dict()
    for name, tensor in detector.state_dict().items():
        if name.startswith(("backbone.", "heads.trunk.")) and not name.endswith("batches_tracked"):
            assert torch.equal(tensor, theirs[name]), name


def test_windows_lie_within_the_image():
    """Of an image that shows its own coordinates, a window shows a part of them, in their order."""
    torch.manual_seed(0)
    across = torch.linspace(0, 1, 32).expand(32, 32)
    images = torch.stack([across, across.T]).expand(6, 2, 32, 32)
    seen = random_windows(make_batch(images, [0] * 6), 0.5).images
    widths = seen[:, 0, 16, -1] - seen[:, 0, 16, 0]
    heights = seen[:, 1, -1, 16] - seen[:, 1, 0, 16]
    torch.testing.assert_close(widths, heights, atol=1e-4, rtol=0)
    assert (widths > 0.45).all()
    assert (widths < 1).all()
    assert len(widths.unique()) == 6
    assert (seen >= 0).all()
    assert (seen <= 1).all()


@pytest.fixture(scope="module")
def digits_folder(tmp_path_factory):
    """scikit-learn's digits as an image folder, and two files that are no images."""
    folder = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images[:700], digits.target)):
        (folder / str(label)).mkdir(exist_ok=True)
        Image.fromarray((pixels * 15.9).astype(np.uint8)).save(folder / str(label) / f"{index}.png")
    (folder / "3" / "broken.png").write_text("no image")
    truncated = Image.effect_noise((64, 64), 50)
    truncated.save(folder / "5" / "truncated.png")
    content = (folder / "5" / "truncated.png").read_bytes()
    (folder / "5" / "truncated.png").write_bytes(content[: len(content) // 2])
    return folder


def pretrain(*arguments):
    return typer.testing.CliRunner().invoke(app, ["pretrain", *map(str, arguments)], catch_exceptions=False)


def test_digits_are_learnt_and_the_weights_fit_a_detector(digits_folder, tmp_path):
    arguments = [
        *("--data", digits_folder, "--out", tmp_path / "run", "--width", 8, "--size", 32, "--gray", "--flip", 0),
        *("--iterations", 100, "--batch-size", 32, "--learning-rate", 0.1, "--least-crop", 0.9),
        *("--device", "cpu", "--json", tmp_path / "figures.json"),
    ]
    result = pretrain(*arguments)
    assert result.exit_code == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["metrics"]["accuracy"] > 0.85
    assert f"accuracy {figures['metrics']['accuracy']:.4f}" in result.stdout
    assert figures["skipped"] == 2
    assert "2 images could not be read" in result.stdout
    weights = open_weights(tmp_path / "run" / "weights.safetensors", ResNetConfig(18, 8))
    assert weights.scaling.channels == "gray"
    detector = FasterRCNN(
        FasterRCNNConfig(("x",), ResNetConfig(18, 8), Preprocessing(channels="gray", mean=(1.0,), std=(1.0,)))
    )
    assert load_pretrained(detector, weights).missing == ()

    again = pretrain(*arguments)  # the run has ended: the same weights once more
    assert again.stdout.partition(" images")[0] == result.stdout.partition(" images")[0]
    with pytest.raises(InputError, match="width divisor is 16"):
        load_pretrained(FasterRCNN(FasterRCNNConfig(("x",), ResNetConfig(18, 16))), weights)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", 0], "width"),
        (["--backbone", "vgg19"], "backbone"),
        (["--norm", "none"], "batch normalization"),
        (["--iterations", 0], "iterations"),
        (["--least-crop", 2], "windows"),
        (["--device", "tpu"], "device"),
        (["--validation-share", 1], "validation share"),
    ],
)
def test_mistakes_are_named(arguments, message, digits_folder, tmp_path):
    with pytest.raises(InputError, match=message):
        pretrain("--data", digits_folder, "--out", tmp_path / "run", "--width", 16, *arguments)
    assert not (tmp_path / "run").exists()
