from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tinydet.int8.aware import QuantizationAwareStep, aware_step, fake_quantized_activation, fake_quantized_weight
from tinydet.int8.calibration import calibrate
from tinydet.int8.layers import quantizable, quantized
from tinydet.training.steps import DetectionStep


@pytest.mark.parametrize("bits", [7, 8])
def test_training_rounds_weights_as_the_file_does(model, images, bits):
    """Independent: onnxruntime's quantizer."""
    source = quantizable(model)
    stored = {
        t.name: numpy_helper.to_array(t)
        for t in quantized(source, calibrate(source.model, images), (), bits).graph.initializer
    }
    for name in ("first", "second", "third"):
        weight = torch.from_numpy(
            numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == f"{name}.weight")).copy()
        )
        scale = stored[f"{name}.weight_scale"][:, None, None, None]
        in_file = stored[f"{name}.weight_quantized"] * scale
        np.testing.assert_allclose(fake_quantized_weight(weight, bits).numpy(), in_file, atol=float(scale.max()) * 1e-3)


def test_the_gradient_passes_straight_through_weights():
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    factor = torch.randn(4, 3, 3, 3)
    (fake_quantized_weight(weight, 8) * factor).sum().backward()
    torch.testing.assert_close(weight.grad, factor)


def test_activations_are_rounded_within_a_range_that_holds_zero():
    """In float64, by the equation: round(x / s + z) cut to 0..255, s = (high - low) / 255, z = round(-low / s)."""
    x = torch.linspace(-1, 4, 501)
    for low, high in ((-0.5, 3.0), (0.7, 3.0)):
        found = fake_quantized_activation(x, torch.tensor(low), torch.tensor(high)).double()
        lowest = min(low, 0.0)
        scale = (high - lowest) / 255
        zero = round(-lowest / scale)
        expected = ((x.double() / scale).round() + zero).clamp(0, 255).sub(zero) * scale
        assert ((found - expected).abs() < scale * 1.01).all()  # a tie may go either way in float32
        assert ((found - expected).abs() < 1e-5).double().mean() > 0.98
        assert fake_quantized_activation(torch.zeros(1), torch.tensor(low), torch.tensor(high)) == 0


@pytest.fixture(scope="module")
def pruned(zoo):
    detector = zoo.make_detector("resnet18")
    with torch.no_grad():
        weight = detector.backbone.layer2[0].conv1.weight
        weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.5] = 0
    return detector


def test_every_layer_learns_and_zeros_stay_zeros(zoo, pruned):
    batch = zoo.make_batch(pruned)
    step = aware_step(DetectionStep(pruned))
    step.train()
    zero = pruned.backbone.layer2[0].conv1.weight == 0
    statistics = pruned.backbone.bn1.running_mean.clone()
    optimizer = torch.optim.SGD(step.parameters(), 1e-4, momentum=0.9)
    for done in range(2):
        optimizer.zero_grad()
        torch.stack(list(step(batch).values())).sum().backward()
        assert all(parameter.grad is not None for parameter in pruned.parameters() if parameter.requires_grad)
        optimizer.step()
        step.after_update(done + 1)
    assert torch.equal(pruned.backbone.layer2[0].conv1.weight == 0, zero)
    assert torch.equal(pruned.backbone.bn1.running_mean, statistics)
    ranges = step.state_dict()["ranges.values"]
    assert not ranges[:, 0].isnan().any()
    assert (ranges[:, 0, 0] <= ranges[:, 0, 1]).all()


def test_sums_are_rounded_and_what_goes_into_a_relu_is_not(zoo):
    detector = zoo.make_detector("resnet18")
    step = QuantizationAwareStep(DetectionStep(detector))
    step.train()
    step(zoo.make_batch(detector))
    rounded = {name for name, ranges in zip(step._layers, step.ranges.values) if not ranges[1].isnan().any()}
    assert "backbone.layer1.0.conv2" in rounded  # its output is a term of a sum
    assert "heads.class_scores" in rounded
    assert not rounded & {"backbone.conv1", "backbone.layer1.0.conv1", "proposals.head.conv.0.0"}


def test_rounding_changes_the_losses_and_what_is_kept_in_float_does_not(zoo):
    detector = zoo.make_detector("ssd_resnet")
    batch = zoo.make_batch(detector)
    plain = DetectionStep(detector)
    names = tuple(name for name, part in detector.named_modules() if isinstance(part, nn.Conv2d | nn.Linear))
    losses = {}
    for kept in ((), names):
        step = QuantizationAwareStep(plain, 7, kept)
        step.train()
        with torch.no_grad():
            losses[kept] = torch.stack(list(step(batch).values()))
    with torch.no_grad():
        expected = torch.stack(list(plain(batch).values()))
    torch.testing.assert_close(losses[names], expected)
    assert not torch.allclose(losses[()], expected, rtol=1e-4)
    torch.testing.assert_close(losses[()], expected, rtol=0.2, atol=0.05)


def test_it_goes_through_the_one_loop_and_its_ranges_are_saved(zoo, tmp_path: Path):
    from safetensors.torch import load_file

    from tinydet.data.loader import make_loader
    from tinydet.data.transforms import AugmentConfig
    from tinydet.records import Annotations, Sample
    from tinydet.training.loop import train
    from tinydet.training.schedule import Schedule

    detector = zoo.make_detector("resnet18")
    small = replace(detector.config.preprocessing, shorter_side=64)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
    sample = Sample("one", pixels, (64, 80), Annotations([[5, 5, 50, 50]], [1]))
    loader = make_loader([sample], small, 1, AugmentConfig(), 0)
    result = train(aware_step(DetectionStep(detector)), loader, Schedule(2, 1e-4), tmp_path, device="cpu", quiet=True)
    ranges = load_file(result.checkpoint / "step.safetensors")["ranges.values"]
    assert ranges.shape == (25, 2, 2)
    assert not ranges[:, 0].isnan().any()
