import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tinydet.backbones import MobileNetConfig, ResNetConfig
from tinydet.data.batch import Batch, Target
from tinydet.detectors import FasterRCNN, FasterRCNNConfig
from tinydet.detectors.ssd import SSD, SSDConfig
from tinydet.distill.feature_steps import FeatureStep, images_by_size, without_padding
from tinydet.distill.features import (
    CWDConfig,
    FeatureLoss,
    MGDConfig,
    PKDConfig,
    cwd_loss,
    mgd_loss,
    pkd_loss,
    visible_cells,
)

CONFIGS = [PKDConfig(), CWDConfig(), MGDConfig()]


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64) * 4 for _ in range(2))
    return first, second


def test_pkd_is_one_minus_pearsons_r():
    teacher, student = maps()
    r = [np.corrcoef(teacher[:, c].flatten().numpy(), student[:, c].flatten().numpy())[0, 1] for c in range(3)]
    assert pkd_loss(teacher, student).item() == pytest.approx(1 - np.mean(r), rel=1e-5)
    assert pkd_loss(teacher, 7 * teacher + 3).item() == pytest.approx(0, abs=1e-9)
    assert pkd_loss(teacher, -teacher).item() == pytest.approx(2, rel=1e-5)


def test_a_dead_channel_has_a_finite_gradient():
    teacher, student = maps()
    student[:, 1] = 0
    student.requires_grad_()
    pkd_loss(teacher, student).backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cwd_is_its_equation_in_float64(temperature):
    teacher, student = maps()
    total = 0.0
    for image in range(2):
        for channel in range(3):
            t = np.exp(teacher[image, channel].flatten().numpy() / temperature)
            s = np.exp(student[image, channel].flatten().numpy() / temperature)
            total += sum(p * math.log(p / q) for p, q in zip(t / t.sum(), s / s.sum()))
    assert cwd_loss(teacher, student, temperature).item() == pytest.approx(temperature**2 / 3 * total / 2, rel=1e-10)
    assert cwd_loss(teacher, teacher + 5, temperature).item() == pytest.approx(0, abs=1e-12)


def test_mgd_is_its_equation_in_float64():
    teacher, generated = maps()
    expected = sum((a - b) ** 2 for a, b in zip(teacher.flatten().tolist(), generated.flatten().tolist())) / 2
    assert mgd_loss(teacher, generated).item() == pytest.approx(expected, rel=1e-12)


def test_mgd_hides_whole_cells_and_generates_from_the_others():
    torch.manual_seed(0)
    visible = visible_cells(2, (50, 60), 0.65, torch.zeros(1))
    assert set(visible.unique().tolist()) == {0.0, 1.0}
    assert visible.mean().item() == pytest.approx(0.35, abs=0.03)
    assert visible_cells(1, (3, 3), 0.0, torch.zeros(1)).min() == 1
    teacher, student = maps()
    loss = FeatureLoss(MGDConfig(masked_share=0.5), (3,), (3,)).double()
    torch.manual_seed(7)
    found = loss((teacher,), (student,)).item()
    torch.manual_seed(7)
    seen = student * (torch.rand(2, 1, 4, 5) >= 0.5)
    first, second = loss.generators[0][0], loss.generators[0][2]
    conv = torch.nn.functional.conv2d
    generated = conv(
        conv(seen, first.weight, first.bias, padding=1).clamp_min(0), second.weight, second.bias, padding=1
    )
    assert found == pytest.approx((teacher - generated).square().sum().item() / 2, rel=1e-10)


@pytest.mark.parametrize("config", CONFIGS)
def test_maps_are_chosen_aligned_and_resized(config):
    torch.manual_seed(0)
    teacher = (torch.rand(2, 6, 8, 8), torch.rand(2, 4, 4, 4), torch.rand(2, 4, 1, 1))
    student = (torch.rand(2, 3, 8, 8), torch.rand(2, 4, 3, 3), torch.rand(2, 2, 1, 1))
    loss = FeatureLoss(replace(config, maps=(0, 1)), (3, 4, 2), (6, 4, 4))
    assert [type(x).__name__ for x in loss.transforms] == ["Conv2d", "Identity"]
    chosen = [x.clone().requires_grad_() for x in student]
    loss(teacher, tuple(chosen)).backward()
    assert [x.grad is not None for x in chosen] == [True, True, False]
    with pytest.raises(ValueError, match="maps"):
        FeatureLoss(replace(config, maps=(3,)), (3, 4, 2), (6, 4, 4))
    with pytest.raises(ValueError, match="maps"):
        FeatureLoss(config, (3, 4, 2), (6, 4))


def make_batch(sizes, size_hw) -> Batch:
    generator = torch.Generator().manual_seed(1)
    target = Target(torch.tensor([[10.0, 20, 60, 70], [30, 5, 70, 60]]), torch.tensor([0, 1]), torch.zeros(0, 4))
    images = torch.rand(len(sizes), 3, *size_hw, generator=generator) * 255
    names = tuple(str(i) for i in range(len(sizes)))
    return Batch(images, tuple(sizes), tuple(sizes), (target,) * len(sizes), names, names)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("two_stage", [False, True])
def test_the_step_trains_the_student_alone(config, two_stage):
    torch.manual_seed(0)
    if two_stage:
        batch = make_batch([(96, 128), (80, 100), (96, 128)], (96, 128))
        networks = [FasterRCNN(FasterRCNNConfig(("x", "y"), ResNetConfig(18, width))) for width in (16, 8)]
    else:
        batch = make_batch([(300, 300)] * 2, (300, 300))
        networks = [SSD(SSDConfig(("x", "y"), MobileNetConfig(width))) for width in (16, 8)]
    student, teacher = networks
    step = FeatureStep(student, teacher, config).train()
    assert all(name.startswith(("detector.", "loss.")) for name in step.state_dict())
    losses = step(batch)
    assert losses["distill_features"].item() > 0
    assert {"detection_class", "detection_box"} <= set(losses)
    losses["distill_features"].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for name, p in step.named_parameters() if "backbone" in name or "loss" in name)


def test_padding_is_compared_with_nothing():
    assert images_by_size(((96, 128), (80, 100), (96, 128))) == [[0, 2], [1]]
    maps = (torch.arange(2 * 6 * 8).reshape(2, 1, 6, 8),)
    (part,) = without_padding(maps, (16,), [1], (80, 100))
    assert torch.equal(part, maps[0][1:, :, :5, :7])


def test_a_teacher_that_is_matched_costs_nothing():
    torch.manual_seed(0)
    network = FasterRCNN(FasterRCNNConfig(("x",), ResNetConfig(18, 16, "frozen")))
    batch = make_batch([(96, 128)], (96, 128))
    twin = FasterRCNN(network.config)
    twin.load_state_dict(network.state_dict())
    batch = replace(batch, targets=tuple(replace(t, labels=t.labels * 0) for t in batch.targets))
    for config in (PKDConfig(), CWDConfig()):
        assert FeatureStep(network, twin, config)(batch)["distill_features"].item() == pytest.approx(0, abs=1e-4)
