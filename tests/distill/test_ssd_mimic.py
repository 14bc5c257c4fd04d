from dataclasses import replace

import pytest
import torch
from torchvision.ops import roi_align

from tinydet.backbones import MobileNetConfig
from tinydet.data.batch import Batch, Target
from tinydet.detectors.ssd import SSD, SSDConfig
from tinydet.distill.mimic import MimicConfig
from tinydet.distill.steps import FeatureMimicStep, MimicStep
from tinydet.distill.teacher import Teacher
from tinydet.errors import InputError
from tinydet.quantizers import UniformQuantizerConfig

Q = UniformQuantizerConfig(0.5)
SMALL = SSDConfig(("x", "y"), MobileNetConfig(16))


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    target = Target(torch.tensor([[10.0, 20, 160, 170], [130, 5, 290, 260]]), torch.tensor([0, 1]), torch.zeros(0, 4))
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    sizes = ((300, 300),) * 2
    images = torch.rand(2, 3, 300, 300, generator=generator) * 255
    return Batch(images, sizes, sizes, (target, nothing), ("a", "b"), ("a", "b"))


def pair(quantized: bool = True, maps: tuple[int, ...] = (0, 1)) -> tuple[SSD, SSD]:
    torch.manual_seed(0)
    student = replace(SMALL, quantizer=Q if quantized else None, quantized_maps=maps)
    return SSD(student), SSD(replace(student, backbone=MobileNetConfig(8)))


@pytest.mark.parametrize("kind", [MimicStep, FeatureMimicStep])
@pytest.mark.parametrize("source", ["teacher", "objects"])
def test_quantization_mimic_on_ssd_is_equation_6_on_chosen_maps(source, kind):
    student, teacher = pair(maps=(0, 1, 3))
    batch = make_batch()
    config = MimicConfig(regions=12, output_size=3, region_source=source)
    step = kind(student.eval(), Teacher(teacher, 12), config)
    found = step(batch)["mimic"].item()

    losses = []
    for index in range(2):
        one = batch.of_image(index)
        regions = teacher.regions_of_interest(one, 12)
        boxes = regions.boxes_xyxy[0] if source == "teacher" else batch.targets[index].boxes_xyxy
        assert len(boxes) == (12 if source == "teacher" else 2 * (1 - index))
        for transform, level in zip(step.mimic.transforms, (0, 1, 3)):
            scale = 1 / teacher.feature_strides[level]
            theirs = roi_align(regions.features[level], [boxes], 3, scale, 2)
            ours = transform(roi_align(student.features(one)[level], [boxes], 3, scale, 2))
            t, s = (torch.ceil(x / 0.5 - 0.5).clamp_min(0) * 0.5 for x in (theirs, ours))
            losses.append((t - s).square().sum() / (2 * max(len(boxes), 1)))
    assert found == pytest.approx(torch.stack(losses).mean().item(), rel=1e-3)


def test_the_student_learns_its_maps_from_the_teacher_alone():
    student, teacher = pair()
    batch = make_batch()
    step = FeatureMimicStep(student, Teacher(teacher, 32), MimicConfig(regions=32, output_size=3)).train()
    optimizer = torch.optim.SGD(step.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for _ in range(12):
        loss = step(batch)["mimic"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_maps_without_q_are_not_mimicked_with_it():
    student, teacher = pair()
    with pytest.raises(InputError, match="Q is on maps"):
        MimicStep(student, Teacher(teacher, 8), MimicConfig(maps=(0, 2)))
    with pytest.raises(InputError, match="maps 0 to 5"):
        MimicStep(student, Teacher(teacher, 8), MimicConfig(maps=(6,)))
    student, teacher = pair(quantized=False)
    losses = MimicStep(student.train(), Teacher(teacher, 8), MimicConfig(maps=(5,)))(make_batch())
    assert losses["mimic"].item() > 0
