from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from tinydet.backbones import MobileNetConfig, ResNetConfig, VGGConfig
from tinydet.detectors import (
    DetectorConfig,
    FasterRCNNFPNConfig,
    RFCNConfig,
    SSDConfig,
    build_detector,
)
from tinydet.detectors.anchors import AnchorConfig
from tinydet.detectors.proposals import ProposalConfig
from tinydet.errors import InputError, TinydetError
from tinydet.export import Tolerance, export_detector
from tinydet.int8 import QuantizeConfig, quantize, quantize_detector
from tinydet.preprocessing import Preprocessing
from tinydet.quantizers import UniformQuantizerConfig
from tinydet.records import Annotations, Sample
from tinydet.runtime import Detector

SMALL = Preprocessing(shorter_side=131, longer_side=220)
FEW = ProposalConfig(AnchorConfig(sides=((24.0, 48.0),)), test_candidates=300, test_proposals=40)
PYRAMID = ProposalConfig(
    AnchorConfig(sides=((16.0,), (32.0,), (64.0,), (96.0,), (128.0,))), test_candidates=100, test_proposals=60
)
NAMES = ("a", "b", "c")
CONFIGS: dict[str, DetectorConfig] = {
    "rfcn": RFCNConfig(NAMES, VGGConfig(32), SMALL, FEW, quantizer=UniformQuantizerConfig(0.5), hidden_channels=128),
    "ssd": SSDConfig(NAMES, MobileNetConfig(8), quantizer=UniformQuantizerConfig(0.5)),
    "pyramid": FasterRCNNFPNConfig(NAMES, ResNetConfig(50, 16, "frozen"), replace(SMALL, size_divisor=32), PYRAMID),
}


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    from sklearn.datasets import load_sample_images

    first, second = load_sample_images().images
    crops = [first[60:261, 100:361], second[100:401, 200:350]]
    return [
        Sample(f"image{index}", np.ascontiguousarray(crop), crop.shape[:2], Annotations([[20, 20, 80, 80]], [0]))
        for index, crop in enumerate(crops)
    ]


def lively(config: DetectorConfig) -> torch.nn.Module:
    """Random weights whose scores differ from place to place, as a trained detector's do."""
    torch.manual_seed(0)
    detector = build_detector(config).eval()
    spread = 0.3 if isinstance(config, SSDConfig) else 1.0  # deep and separable: values would die out
    for name, value in detector.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(torch.rand_like(value) * spread + spread / 3)
        elif name.endswith("running_mean"):
            value.copy_(torch.randn_like(value) * 0.1)
    for name, value in detector.named_parameters():
        if value.dim() > 1 and any(part in name for part in ("class_scores", "cls_logits", "class_maps")):
            value.data *= 30
    return detector


def one_with_objects(zoo) -> torch.nn.Module:
    """A Faster R-CNN whose random weights do not take everything for background."""
    found = zoo.make_detector("resnet18", seed=3)
    detector = build_detector(replace(found.config, preprocessing=SMALL))
    detector.load_state_dict(found.state_dict())
    return detector.eval()


@pytest.mark.parametrize(
    "kind", ["faster_rcnn", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("rfcn", "ssd", "pyramid"))]
)
def test_a_detector_becomes_a_small_file_or_is_refused(zoo, samples, tmp_path, kind, monkeypatch):
    # Random detectors have many scores that are all but equal, among which NMS may choose either.
    lenient = partial(export_detector, tolerance=Tolerance(other_share=1.0))
    monkeypatch.setattr(quantize, "export_detector", lenient)
    detector = one_with_objects(zoo) if kind == "faster_rcnn" else lively(CONFIGS[kind])
    path = tmp_path / "int8.tinydet"
    config = QuantizeConfig(sensitivity_images=1)
    report = quantize_detector(detector, path, samples, samples, config, metrics={"step": 3}, compression=["pruned"])
    assert report.int8_bytes == path.stat().st_size < 0.5 * report.float_bytes
    assert report.float_accuracy - report.int8_accuracy <= 0.01
    assert {row.layer for row in report.layers} <= {name for name, _ in detector.named_modules()}
    assert all(0 <= row.change <= 1 for row in report.layers)
    assert max(row.change for row in report.layers) > 0
    assert all(len(pair) == 2 for pair in report.latency_ms.values())
    loaded = Detector(path, "onnxruntime", threads=1)
    assert len(loaded(np.asarray(samples[0].open_image()))) > 0
    first, last = loaded.description.compression
    assert (first, last["step"], last["weight_bits"]) == ("pruned", "int8", 7)
    assert loaded.description.metrics["step"] == 3

    refused = tmp_path / "refused.onnx"
    with pytest.raises(TinydetError, match=r"falls from 0\.9000 .* --aware 500") as error:
        quantize_detector(detector, refused, samples, samples, config, float_accuracy=0.9)
    assert error.value.exit_status == 1
    assert not refused.exists()


@pytest.mark.parametrize(("name", "images"), [("model.txt", 1), ("model.tinydet", 0)])
def test_a_users_mistake_is_named_before_any_work(samples, tmp_path, name, images):
    with pytest.raises(InputError, match=r"expected a name|needs images"):
        quantize_detector(None, tmp_path / name, samples[:images], samples)


@pytest.mark.parametrize("wrong", [{"tolerance": -0.1}, {"percentile": 20.0}, {"sensitivity_images": 0}])
def test_a_configuration_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=r"expected a fall|percentile"):
        QuantizeConfig(**wrong)


def test_the_verb_names_a_wrong_option(tmp_path):
    from typer.testing import CliRunner

    from tinydet.cli import _register_verbs, app

    _register_verbs()
    arguments = ["quantize", str(tmp_path), "--data", "digits", "-o", "x.tinydet", "--calibration", "guess"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InputError)
    assert "expected one of minmax, percentile, entropy" in str(result.exception)
