import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tinydet.backbones import MobileNetConfig, ResNetConfig
from tinydet.data.batch import Batch, Target
from tinydet.detectors import FasterRCNN, FasterRCNNConfig
from tinydet.detectors.default_boxes import DEFAULT_BOXES_3000
from tinydet.detectors.outputs import DensePredictions, RegionPredictions, RegionTargets
from tinydet.detectors.regions import RegionConfig, region_losses
from tinydet.detectors.ssd import SSD, SSDConfig
from tinydet.detectors.ssd_loss import SSDLossConfig, ssd_losses
from tinydet.distill.logit_steps import LogitStep
from tinydet.distill.logits import (
    BoxDistillConfig,
    LogitConfig,
    distilled_box_errors,
    region_distillation_losses,
    softened_divergence,
    ssd_distillation_losses,
)
from tinydet.errors import InputError

CLASSES = ("x", "y", "z")
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
TINY = SSDConfig(CLASSES, MobileNetConfig(16))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


def divergence(teacher: np.ndarray, student: np.ndarray, temperature: float) -> float:
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    return sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q))


@pytest.mark.parametrize("t_squared", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_divergence_is_its_definition_in_float64(temperature, t_squared):
    torch.manual_seed(0)
    teacher, student = torch.randn(6, 5).double() * 3, torch.randn(6, 5).double() * 3
    found = softened_divergence(teacher, student, LogitConfig(0.3, temperature, t_squared))
    for row in range(6):
        expected = divergence(teacher[row].numpy(), student[row].numpy(), temperature)
        assert found[row].item() == pytest.approx(expected * (temperature**2 if t_squared else 1), rel=1e-12)


def test_t_squared_keeps_the_gradients_size_and_its_absence_does_not():
    """Hinton et al. 2015, section 2.1."""
    torch.manual_seed(0)
    teacher = torch.randn(50, 4).double()
    sizes = {}
    for t_squared in (False, True):
        for temperature in (10.0, 40.0):
            student = torch.zeros(50, 4).double().requires_grad_()
            config = LogitConfig(0.5, temperature, t_squared)
            softened_divergence(teacher, student, config).sum().backward()
            sizes[t_squared, temperature] = student.grad.norm().item()
    assert sizes[True, 40.0] == pytest.approx(sizes[True, 10.0], rel=0.1)
    assert sizes[False, 40.0] == pytest.approx(sizes[False, 10.0] / 16, rel=0.1)


@pytest.mark.parametrize("over", ["counted", "all"])
@pytest.mark.parametrize("kind", [None, "bounded", "imitated"])
def test_ssd_losses_are_the_equation_in_float64(over, kind):
    """Equation 1 box by box, with the objects and the mined background that a plain sort gives."""
    generator = torch.Generator().manual_seed(2)
    corner = torch.rand(40, 2, generator=generator) * 80
    boxes = torch.cat([corner, corner + 10 + torch.rand(40, 2, generator=generator) * 40], dim=1)
    truth = Target(boxes[[3, 17]] + 1.5, torch.tensor([2, 0]), torch.zeros(0, 4))
    student, teacher = (
        DensePredictions(
            torch.randn(1, 40, 4, generator=generator) * 2, torch.randn(1, 40, 4, generator=generator), boxes, WEIGHTS
        )
        for _ in range(2)
    )
    box_config = BoxDistillConfig(kind, 0.7, 0.3, 0.4) if kind else None
    config = LogitConfig(0.25, 3.0, over=over, boxes=box_config)
    losses = ssd_distillation_losses(student, teacher, (truth,), SSDLossConfig(), config)

    from tinydet.detectors.box_coding import encode
    from tinydet.detectors.ssd_loss import match_default_boxes

    matches = match_default_boxes(boxes, truth, 0.5).tolist()
    labels = [0 if m < 0 else int(truth.labels[m]) + 1 for m in matches]
    z_s, z_t = student.logits[0].double().numpy(), teacher.logits[0].double().numpy()
    entropy = [-math.log(softmax(z_s[a])[labels[a]]) for a in range(40)]
    objects = [a for a in range(40) if labels[a] > 0]
    background = sorted((a for a in range(40) if labels[a] == 0), key=lambda a: -entropy[a])[: 3 * len(objects)]
    counted = objects + background
    taught = counted if over == "counted" else range(40)
    n = len(objects)
    assert n >= 2
    assert losses["detection_class"].item() == pytest.approx(0.25 * sum(entropy[a] for a in counted) / n, rel=1e-5)
    expected = 0.75 * sum(divergence(z_t[a], z_s[a], 3.0) for a in taught) / n
    assert losses["distill_class"].item() == pytest.approx(expected, rel=1e-5)

    def smooth(a: np.ndarray, b: np.ndarray) -> float:
        return sum(0.5 * d * d if d < 1 else d - 0.5 for d in np.abs(a - b).tolist())

    own = distilled = 0.0
    for a in objects:
        y = encode(truth.boxes_xyxy[[matches[a]]], boxes[[a]], WEIGHTS)[0].double().numpy()
        r_s, r_t = student.deltas[0, a].double().numpy(), teacher.deltas[0, a].double().numpy()
        own += smooth(r_s, y)
        from_s, from_t = ((r_s - y) ** 2).sum(), ((r_t - y) ** 2).sum()
        if kind == "bounded":
            distilled += from_s if from_s + 0.4 > from_t else 0.0
        elif kind == "imitated":
            distilled += smooth(r_s, r_t) if from_t + 0.4 < from_s else 0.0
    assert losses["detection_box"].item() == pytest.approx((0.7 if kind else 1.0) * own / n, rel=1e-4)
    assert ("distill_box" in losses) == (kind is not None)
    if kind:
        assert losses["distill_box"].item() == pytest.approx(0.3 * distilled / n, rel=1e-4)


def test_alpha_one_is_training_without_a_teacher():
    torch.manual_seed(0)
    detector = SSD(TINY).train()
    batch = make_batch()
    outputs = detector(batch)
    other = replace(outputs.dense, logits=torch.randn_like(outputs.dense.logits))
    losses = ssd_distillation_losses(outputs.dense, other, batch.targets, SSDLossConfig(), LogitConfig(alpha=1.0))
    own = ssd_losses(outputs.dense, batch.targets, SSDLossConfig())
    assert losses["distill_class"].item() == 0
    for name, value in own.items():
        assert torch.equal(losses[name], value)


def test_bounded_boxes_by_hand():
    truth = torch.zeros(3, 4)
    teacher = torch.tensor([[1.0, 0, 0, 0]] * 3)
    student = torch.tensor([[2.0, 0, 0, 0], [0.5, 0, 0, 0], [0.9, 0, 0, 0]])
    bounded = BoxDistillConfig("bounded", margin=0.3)
    assert distilled_box_errors(teacher, student, truth, bounded).tolist() == pytest.approx([4.0, 0.0, 0.81])
    imitated = BoxDistillConfig("imitated", margin=0.3)
    assert distilled_box_errors(teacher, student, truth, imitated).tolist() == pytest.approx([0.5, 0.0, 0.0])


def test_regions_share_the_second_stages_denominator():
    torch.manual_seed(0)
    labels = torch.tensor([2, 0, -1, 1, 0])
    student = RegionPredictions(
        [torch.rand(5, 4)], torch.randn(5, 4), torch.randn(5, 3, 4), RegionTargets(labels, torch.randn(5, 4))
    )
    agnostic = RegionPredictions(student.boxes_xyxy, torch.randn(5, 4), torch.randn(5, 4))
    own = region_losses(student, RegionConfig()) | {"proposal_class": torch.tensor(0.5)}
    config = LogitConfig(0.4, 2.0, boxes=BoxDistillConfig("bounded", 1.0, 0.5, 100.0))
    losses = region_distillation_losses(student, agnostic, own, config)
    rows = [
        divergence(agnostic.logits[i].double().numpy(), student.logits[i].double().numpy(), 2.0) for i in (0, 1, 3, 4)
    ]
    assert losses["distill_class"].item() == pytest.approx(0.6 * sum(rows) / 4, rel=1e-5)
    assert losses["detection_class"].item() == pytest.approx(0.4 * own["detection_class"].item())
    assert losses["proposal_class"].item() == 0.5
    of_objects = [
        (student.deltas[0, 1] - student.targets.deltas[0]),
        (student.deltas[3, 0] - student.targets.deltas[3]),
    ]
    expected = 0.5 * sum(d.square().sum().item() for d in of_objects) / 4
    assert losses["distill_box"].item() == pytest.approx(expected, rel=1e-5)
    everything = region_distillation_losses(student, agnostic, own, replace(config, over="all"))
    assert everything["distill_class"].item() > losses["distill_class"].item()


def make_batch(size_hw=(300, 300)) -> Batch:
    generator = torch.Generator().manual_seed(1)
    target = Target(torch.tensor([[10.0, 20, 60, 70], [30, 5, 90, 60]]), torch.tensor([0, 2]), torch.zeros(0, 4))
    images = torch.rand(2, 3, *size_hw, generator=generator) * 255
    return Batch(images, (size_hw,) * 2, (size_hw,) * 2, (target,) * 2, ("a", "b"), ("a", "b"))


def pair(two_stage: bool):
    if two_stage:
        config = FasterRCNNConfig(CLASSES, ResNetConfig(18, 16))
        return FasterRCNN(config), FasterRCNN(replace(config, backbone=ResNetConfig(18, 8))), make_batch((96, 128))
    return SSD(TINY), SSD(replace(TINY, backbone=MobileNetConfig(8))), make_batch()


@pytest.mark.parametrize("two_stage", [False, True])
def test_the_step_trains_the_student_alone(two_stage):
    torch.manual_seed(0)
    student, teacher, batch = pair(two_stage)
    step = LogitStep(student, teacher, LogitConfig(boxes=BoxDistillConfig(margin=50.0))).train()
    assert not teacher.training
    assert all(name.startswith("detector.") for name in step.state_dict())
    assert len(list(step.parameters())) == len(list(student.parameters()))
    before = [x.clone() for x in teacher.state_dict().values()]
    losses = step(batch)
    assert {"detection_class", "detection_box", "distill_class", "distill_box"} <= set(losses)
    assert all(loss.item() > 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.state_dict().values()))


def test_a_student_comes_to_say_what_its_teacher_says():
    torch.manual_seed(0)
    student, teacher, batch = pair(two_stage=False)
    step = LogitStep(student, teacher, LogitConfig(alpha=0.0, temperature=1.0, over="all")).train()
    optimizer = torch.optim.SGD(step.parameters(), lr=0.005, momentum=0.9)
    found = []
    for _ in range(15):
        losses = step(batch)
        optimizer.zero_grad()
        losses["distill_class"].backward()
        optimizer.step()
        found.append(losses["distill_class"].item())
    assert found[-1] < 0.6 * found[0]
    assert F.softmax(student.eval()(batch).dense.logits, dim=2).isfinite().all()


def test_detectors_that_cannot_be_compared_are_refused():
    student, _, _ = pair(two_stage=False)
    with pytest.raises(InputError, match="default boxes"):
        LogitStep(student, SSD(replace(TINY, boxes=DEFAULT_BOXES_3000)), LogitConfig())
    with pytest.raises(InputError, match="teacher knows"):
        LogitStep(student, SSD(replace(TINY, classes=("x", "y", "w"))), LogitConfig())
    with pytest.raises(InputError, match="of one kind"):
        LogitStep(student, pair(two_stage=True)[1], LogitConfig())
    other = SSD(replace(TINY, box_weights=(1.0, 1.0, 1.0, 1.0)))
    with pytest.raises(InputError, match="box_weights"):
        LogitStep(student, other, LogitConfig(boxes=BoxDistillConfig()))


@pytest.mark.parametrize("wrong", [{"alpha": 1.2}, {"alpha": -0.1}, {"temperature": 0.0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="alpha"):
        LogitConfig(**wrong)
