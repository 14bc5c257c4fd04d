from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tinydet.data import AugmentConfig, make_loader
from tinydet.distill.mimic import MimicConfig
from tinydet.distill.steps import MimicStep
from tinydet.distill.teacher import Teacher
from tinydet.prune.fine_tuning import GradualConfig, MaskedStep
from tinydet.prune.layers import weighted_layers
from tinydet.prune.masks import PruneConfig, prune
from tinydet.records import Annotations, Sample
from tinydet.training import DetectionStep, Schedule, load_checkpoint, train


def samples() -> list[Sample]:
    random = np.random.default_rng(0)
    boxes = np.array([[10.0, 10, 50, 50], [30, 20, 90, 60]])
    return [
        Sample(f"i{i}", random.integers(0, 256, (64, 96, 3), dtype=np.uint8), (64, 96), Annotations(boxes, [0, 1]))
        for i in range(3)
    ]


def run(step, out: Path, iterations: int = 3, **options):
    schedule = Schedule(iterations, 0.01, weight_decay=0.01, clip_norm=10.0)
    preprocessing = step.detector.config.preprocessing
    loader = make_loader(samples(), preprocessing, 1, AugmentConfig(0.5), seed=0, workers=0)
    return train(step, loader, schedule, out, device="cpu", quiet=True, **options)


def small(zoo, name: str = "resnet18"):
    from dataclasses import replace

    from tinydet.detectors import build_detector

    config = zoo.CONFIGS[name]
    torch.manual_seed(0)
    return build_detector(replace(config, preprocessing=replace(config.preprocessing, shorter_side=64)))


def zero_weights(detector) -> dict[str, torch.Tensor]:
    return {
        name: layer.weight.detach() == 0
        for block in detector.blocks()
        for name, layer in weighted_layers(detector, block).items()
    }


def test_zeros_stay_zero_and_the_rest_learns(zoo, tmp_path: Path):
    pruned, _ = prune(small(zoo), PruneConfig(0.5, "all"))
    zeros, before = zero_weights(pruned), pruned.backbone.conv1.weight.detach().clone()
    step = MaskedStep(DetectionStep(pruned))
    seen = []
    original = step.after_update

    def after_update(done: int) -> None:
        original(done)
        seen.append(all(torch.equal(zeros[name], zero) for name, zero in zero_weights(pruned).items()))

    step.after_update = after_update
    result = run(step, tmp_path)
    assert seen == [True] * 3
    loaded, _ = load_checkpoint(result.checkpoint)
    assert all(torch.equal(zeros[name], zero) for name, zero in zero_weights(loaded).items())
    assert not torch.equal(before, loaded.backbone.conv1.weight)


def test_without_the_wrapper_they_would_not(zoo, tmp_path: Path):
    pruned, _ = prune(small(zoo), PruneConfig(0.5, "all"))
    zeros = zero_weights(pruned)["backbone.conv1"].sum()
    run(DetectionStep(pruned), tmp_path, 1)
    assert zeros > 0
    assert zero_weights(pruned)["backbone.conv1"].sum() == 0


def test_the_gradient_is_that_of_the_masked_network(zoo):
    pruned, _ = prune(small(zoo), PruneConfig(0.5, "all"))
    batch = zoo.make_batch(pruned)
    plain = DetectionStep(pruned).train()
    torch.manual_seed(0)
    expected = plain(batch)
    sum(expected.values()).backward()
    wanted = {name: p.grad.clone() for name, p in pruned.named_parameters()}
    pruned.zero_grad()
    masked = MaskedStep(plain).train()
    torch.manual_seed(0)
    losses = masked(batch)
    sum(losses.values()).backward()
    assert losses.keys() == expected.keys()
    for name, parameter in pruned.named_parameters():
        gone = parameter == 0 if parameter.ndim > 1 else torch.zeros_like(parameter, dtype=torch.bool)
        assert (parameter.grad[gone] == 0).all()
        assert torch.allclose(parameter.grad[~gone], wanted[name][~gone], atol=1e-6)


def test_a_gradual_run_grows_to_the_sparsity_asked_for_and_resumes(zoo, tmp_path: Path):
    config = GradualConfig(PruneConfig(0.8, "all"), until=4, stages=2)
    assert [config.stage_after(done) for done in range(6)] == [None, None, 1, None, 2, None]
    assert config.at_stage(1).sparsity == pytest.approx(0.8 * (1 - 0.5**3))
    whole, interrupted = small(zoo), small(zoo)
    run(MaskedStep(DetectionStep(whole), config), tmp_path / "whole", 6)

    class Stopping(DetectionStep):
        calls = 0

        def forward(self, batch):
            self.calls += 1
            if self.calls == 4:
                raise RuntimeError("power cut")
            return super().forward(batch)

    Stopping.__name__ = "DetectionStep"
    with pytest.raises(RuntimeError, match="power cut"):
        run(MaskedStep(Stopping(interrupted), config), tmp_path / "cut", 6, checkpoint_every=3)
    again = small(zoo)
    run(MaskedStep(DetectionStep(again), config), tmp_path / "cut", 6)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    zeros = zero_weights(whole)
    for block in whole.blocks():
        own = [zeros[name] for name in weighted_layers(whole, block)]
        assert sum(int(z.sum()) for z in own) == round(0.8 * sum(z.numel() for z in own))


def test_it_wraps_a_mimic_step_and_trains_its_transform(zoo, tmp_path: Path):
    pruned, _ = prune(small(zoo), PruneConfig(0.5))
    mimic = MimicStep(pruned, Teacher(small(zoo), 8), MimicConfig(regions=8))
    step, before = MaskedStep(mimic), mimic.mimic.transforms[0].weight.detach().clone()
    assert step.state_dict().keys() == mimic.state_dict().keys()
    zeros = zero_weights(pruned)
    run(step, tmp_path, 2)
    assert not torch.equal(before, mimic.mimic.transforms[0].weight)
    assert all(torch.equal(zeros[name], zero) for name, zero in zero_weights(pruned).items())
