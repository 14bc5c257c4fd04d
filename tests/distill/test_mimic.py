import math

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align as torchvision_roi_align

from tinydet.backbones import ResNetConfig
from tinydet.data.batch import Batch, Target
from tinydet.detectors import FasterRCNN, FasterRCNNConfig
from tinydet.distill.mimic import MimicConfig, RegionMimic, mimic_loss
from tinydet.distill.steps import FeatureMimicStep, MimicStep
from tinydet.distill.teacher import Teacher
from tinydet.quantizers import UniformQuantizerConfig


def q(value: float, stride: float) -> float:
    return max(0.0, math.ceil(value / stride - 0.5) * stride)


@pytest.mark.parametrize("teacher_q", [None, 1.0])
@pytest.mark.parametrize("student_q", [None, 0.5])
@pytest.mark.parametrize("per_entry", [False, True])
@pytest.mark.parametrize("channels", [2, 6], ids=["transformed after pooling", "transformed before pooling"])
def test_the_loss_is_equation_6_in_float64(teacher_q, student_q, per_entry, channels):
    """Against plain loops over regions, channels and bins, written from the equation."""
    torch.manual_seed(0)
    config = MimicConfig(regions=5, output_size=3, per_entry=per_entry)
    mimic = RegionMimic(
        config,
        (channels,),
        (4,),
        UniformQuantizerConfig(student_q) if student_q else None,
        UniformQuantizerConfig(teacher_q) if teacher_q else None,
    ).double()
    teacher_map, student_map = torch.rand(4, 8, 9).double() * 6, torch.rand(channels, 4, 5).double() * 6
    corner = torch.rand(7, 2).double() * 60
    boxes = torch.cat([corner, corner + 10 + torch.rand(7, 2).double() * 60], dim=1)
    loss = mimic(0, teacher_map, student_map, 16, 32, boxes)

    weight = mimic.transforms[0].weight.detach().numpy()[:, :, 0, 0]
    bias = mimic.transforms[0].bias.detach().numpy()
    teacher = torchvision_roi_align(teacher_map[None], [boxes[:5]], 3, 1 / 16, 2).numpy()
    student = torchvision_roi_align(student_map[None], [boxes[:5]], 3, 1 / 32, 2).numpy()
    total = np.float64(0)
    for i in range(5):
        for c in range(4):
            for y in range(3):
                for x in range(3):
                    s = bias[c] + sum(weight[c, k] * student[i, k, y, x] for k in range(channels))
                    t = teacher[i, c, y, x]
                    t = q(t, teacher_q) if teacher_q else t
                    s = q(s, student_q) if student_q else s
                    total += (t - s) ** 2
    expected = total / (2 * 5) / (4 * 3 * 3 if per_entry else 1)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-12)


def test_no_regions_cost_nothing():
    assert mimic_loss(torch.zeros(0, 2, 3, 3), torch.zeros(0, 2, 3, 3)).item() == 0


def batch_of(count: int) -> Batch:
    target = Target(torch.tensor([[10.0, 20, 60, 70]]), torch.tensor([0]), torch.zeros(0, 4))
    sizes = ((96, 128),) * count
    names = tuple(str(i) for i in range(count))
    return Batch(torch.rand(count, 3, 96, 128) * 255, sizes, sizes, (target,) * count, names, names)


def detectors(quantizer=None):
    torch.manual_seed(0)
    teacher = FasterRCNN(FasterRCNNConfig(("x",), ResNetConfig(18, 8), quantizer=quantizer))
    student = FasterRCNN(FasterRCNNConfig(("x",), ResNetConfig(18, 16), quantizer=quantizer))
    return teacher, student


@pytest.mark.parametrize("source", ["teacher", "student"])
def test_joint_training_reaches_every_weight_of_the_student_and_none_of_the_teacher(source):
    teacher, student = detectors(UniformQuantizerConfig(0.25))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    step = MimicStep(student, Teacher(teacher, 32), MimicConfig(regions=32, region_source=source)).train()
    losses = step(batch_of(2))
    assert set(losses) == {"proposal_class", "proposal_box", "detection_class", "detection_box", "mimic"}
    losses["mimic"].backward()
    assert all(p.grad is not None for name, p in student.named_parameters() if name.startswith("backbone"))
    assert all(p.grad is None for p in teacher.parameters())
    assert not any("teacher" in name for name in step.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_lambda_scales_the_mimic_loss_alone():
    teacher, student = detectors()
    student.eval()
    losses = []
    for weight in (1.0, 10.0):
        torch.manual_seed(3)
        step = MimicStep(student, Teacher(teacher, 16), MimicConfig(weight=weight, regions=16))
        student.train()
        torch.manual_seed(3)
        torch.nn.init.constant_(step.mimic.transforms[0].weight, 0.1)
        torch.nn.init.zeros_(step.mimic.transforms[0].bias)
        torch.manual_seed(3)
        batch = batch_of(1)
        torch.manual_seed(4)
        losses.append(step(batch))
    assert losses[1]["mimic"].item() == pytest.approx(10 * losses[0]["mimic"].item(), rel=1e-4)
    assert losses[1]["proposal_class"].item() == pytest.approx(losses[0]["proposal_class"].item(), rel=1e-5)


def test_the_first_stage_teaches_the_backbone_only():
    teacher, student = detectors()
    step = FeatureMimicStep(student, Teacher(teacher, 16), MimicConfig(regions=16)).train()
    losses = step(batch_of(1))
    assert set(losses) == {"mimic"}
    losses["mimic"].backward()
    touched = {name.split(".")[0] for name, p in step.detector.named_parameters() if p.grad is not None}
    assert touched == {"backbone"}


def test_the_teachers_answers_are_kept_and_bounded():
    teacher, _ = detectors()
    batch = batch_of(3)
    keeper = Teacher(teacher, 8)
    first, again = keeper.views(batch), keeper.views(batch)
    assert all(torch.equal(a.features[0], b.features[0]) for a, b in zip(first, again))
    one = first[0].byte_size()
    small = Teacher(teacher, 8, memory_bytes=one)
    small.views(batch)
    assert small._kept_bytes <= one
    assert len(small._kept) == 1
