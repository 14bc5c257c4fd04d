from dataclasses import replace

import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

from tinydet.backbones import MobileNetConfig, ResNetConfig, VGGConfig
from tinydet.config import from_plain, to_plain
from tinydet.data.batch import Batch, Target
from tinydet.detectors import RFCN, DetectorConfig, RFCNConfig, build_detector
from tinydet.detectors.anchors import AnchorConfig
from tinydet.detectors.outputs import Detector
from tinydet.detectors.proposals import ProposalConfig
from tinydet.detectors.rfcn import RFCNRegionConfig
from tinydet.distill.mimic import MimicConfig
from tinydet.distill.steps import MimicStep
from tinydet.distill.teacher import Teacher
from tinydet.preprocessing import Preprocessing
from tinydet.quantizers import UniformQuantizerConfig

GRAY = Preprocessing(channels="gray", mean=(120.0,), std=(60.0,))


def make_batch(channels: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, channels, 96, 128, generator=generator) * 255
    target = Target(torch.tensor([[10.0, 20, 60, 70], [30, 5, 90, 60]]), torch.tensor([0, 2]), torch.zeros(0, 4))
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    sizes = ((96, 128), (80, 100))
    return Batch(images, sizes, sizes, (target, nothing), ("a", "b"), ("a", "b"))


@pytest.mark.parametrize(
    "config",
    [
        RFCNConfig(("x", "y", "z"), VGGConfig(8), GRAY),
        RFCNConfig(("x", "y", "z"), VGGConfig(32, "none"), hidden_channels=0),
        RFCNConfig(("x", "y", "z"), VGGConfig(1000), GRAY, quantizer=UniformQuantizerConfig(0.1)),
        RFCNConfig(("x", "y", "z"), ResNetConfig(18, 16), regions=RFCNRegionConfig(class_agnostic_boxes=False)),
        RFCNConfig(("x", "y", "z"), ResNetConfig(50, 32), hidden_kernel=1, regions=RFCNRegionConfig(hardest=None)),
        RFCNConfig(("x", "y", "z"), MobileNetConfig(8), regions=RFCNRegionConfig(output_size=7)),
    ],
)
def test_every_backbone_learns_and_detects(config):
    torch.manual_seed(0)
    detector = build_detector(from_plain(DetectorConfig, to_plain(config)))
    assert isinstance(detector, Detector)
    assert set(detector.blocks()) == {"backbone", "proposals", "heads"}
    of_blocks = {id(p) for block in detector.blocks().values() for p in block.parameters()}
    assert of_blocks == {id(p) for p in detector.parameters()}
    batch = make_batch(config.preprocessing.channel_count)
    losses = detector.criterion(detector.train()(batch), batch.targets)
    assert set(losses) == {"proposal_class", "proposal_box", "detection_class", "detection_box"}
    sum(losses.values()).backward()
    without = [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    for found, (height, width) in zip(detector.eval().postprocess(detector(batch)), batch.sizes_hw):
        assert (found.boxes_xyxy <= torch.tensor([width, height, width, height])).all()


def test_half_precision_trains():
    torch.manual_seed(0)
    detector = RFCN(RFCNConfig(("x", "y", "z"), VGGConfig(32), GRAY)).train()
    batch = make_batch(1)
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector.criterion(detector(batch), batch.targets)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in detector.parameters())


class DrawnMaps(nn.Module):
    """Score maps on which one object of class `label` stands on the cells of `box`, each ninth on its own map."""

    def __init__(self, label: int, classes: int, box: tuple[int, int, int, int], size_hw: tuple[int, int]) -> None:
        super().__init__()
        left, top, cell_w, cell_h = box[0], box[1], (box[2] - box[0]) // 3, (box[3] - box[1]) // 3
        self.scores = torch.full((1, classes + 1, 3, 3, *size_hw), -8.0)
        self.scores[:, 0] = 0.0
        for i in range(3):
            for j in range(3):
                rows = slice(top + i * cell_h, top + (i + 1) * cell_h)
                columns = slice(left + j * cell_w, left + (j + 1) * cell_w)
                self.scores[:, label + 1, i, j, rows, columns] = 8.0
        self.size_hw = size_hw

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.scores.flatten(1, 3), torch.zeros(1, 36, *self.size_hw)


def test_score_maps_drawn_by_hand_find_their_box():
    """A box that is shifted, transposed, or too large reads the wrong parts, and is outvoted."""
    config = RFCNConfig(("x", "y"), VGGConfig(64), GRAY)
    detector = RFCN(config).eval()
    detector.heads = DrawnMaps(label=1, classes=2, box=(3, 5, 15, 11), size_hw=(20, 24))
    right = torch.tensor([[48.0, 80, 240, 176]])
    wrong = torch.tensor(
        [[64.0, 80, 304, 176], [48, 112, 240, 208], [80, 48, 176, 240], [0, 32, 288, 224], [112, 80, 176, 176]]
    )
    detector.proposals.propose = lambda *_: [torch.cat([wrong, right])]
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    batch = Batch(torch.zeros(1, 1, 320, 384), ((320, 384),), ((320, 384),), (nothing,), ("a",), ("a",))
    outputs = detector(batch)
    (found,) = detector.postprocess(outputs)
    torch.testing.assert_close(found.boxes_xyxy[:1], right)
    assert found.labels.tolist()[0] == 1
    assert found.scores[0] > 0.95
    assert (outputs.regions.logits.softmax(1)[:-1, 2] < 0.6).all()


def test_regions_beyond_the_hardest_give_no_gradient_to_the_score_maps():
    """One region counts: a cell that it does not touch has exactly no gradient."""
    config = RFCNConfig(("x", "y", "z"), VGGConfig(32), regions=RFCNRegionConfig(hardest=1))
    torch.manual_seed(0)
    detector = RFCN(config).train()
    maps = {}
    detector.heads.class_maps.register_forward_hook(lambda module, inputs, output: maps.update(scores=output))
    batch = make_batch(3).of_image(0)
    outputs = detector(batch)
    assert len(outputs.regions.boxes_xyxy[0]) > 20
    maps["scores"].retain_grad()
    losses = detector.region_losses(outputs.regions)
    losses["detection_class"].backward()
    touched = (maps["scores"].grad != 0).sum()
    assert 0 < touched <= 4 * 9 * 16  # 4 classes, 9 bins, 4 samples of 4 cells each


def make_scenes(first: int, count: int) -> Batch:
    """Gray noise with one light and one dark square in each image, of a few sizes and at a few places."""
    images, targets = [], []
    for seed in range(first, first + count):
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(1, 96, 128, generator=generator) * 60 + 60
        moved = (torch.rand(2, 4, generator=generator) * 8 - 4).round()
        boxes = torch.tensor([[10.0, 10, 50, 50], [70, 40, 118, 88]]) + moved
        labels = torch.randperm(2, generator=generator)
        for (x0, y0, x1, y1), label in zip(boxes.int().tolist(), labels.tolist()):
            image[:, y0:y1, x0:x1] = (240, 5)[label]
        images.append(image)
        targets.append(Target(boxes, labels, torch.zeros(0, 4)))
    sizes, names = ((96, 128),) * count, tuple(map(str, range(first, first + count)))
    return Batch(torch.stack(images), sizes, sizes, tuple(targets), names, names)


@pytest.mark.slow
def test_a_narrow_network_learns_to_detect():
    torch.manual_seed(0)
    proposals = ProposalConfig(AnchorConfig(((24.0, 48.0),), (1.0,)), train_proposals=200)
    detector = RFCN(RFCNConfig(("light", "dark"), VGGConfig(16), GRAY, proposals)).train()
    optimizer = torch.optim.SGD(detector.parameters(), 0.02, 0.9, weight_decay=5e-4)
    for step in range(300):
        batch = make_scenes(4 * step, 4)
        loss = sum(detector.criterion(detector(batch), batch.targets).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10)
        optimizer.step()
    batch = make_scenes(90_000, 8)
    for found, target in zip(detector.eval().postprocess(detector(batch)), batch.targets):
        sure = found.scores > 0.5
        overlaps = box_iou(found.boxes_xyxy[sure], target.boxes_xyxy)
        assert sorted(overlaps.argmax(dim=1).tolist()) == [0, 1]
        assert (overlaps.amax(dim=1) > 0.5).all()
        assert torch.equal(found.labels[sure], target.labels[overlaps.argmax(dim=1)])


def test_a_student_mimics_an_rfcn_teacher():
    torch.manual_seed(0)
    quantizer = UniformQuantizerConfig(0.5)
    teacher = RFCN(RFCNConfig(("x", "y", "z"), VGGConfig(8), GRAY, quantizer=quantizer))
    student = RFCN(replace(teacher.config, backbone=VGGConfig(32)))
    step = MimicStep(student.train(), Teacher(teacher, 50), MimicConfig(regions=50, output_size=3))
    losses = step(make_batch(1))
    sum(losses.values()).backward()
    assert losses["mimic"] > 0
    assert student.backbone.features[0].weight.grad.abs().sum() > 0


def test_channels_at_full_width_are_the_papers():
    with torch.device("meta"):
        detector = RFCN(RFCNConfig(("face",), VGGConfig(1, "none"), GRAY))
    shapes = {name: tuple(p.shape) for name, p in detector.named_parameters()}
    assert shapes["heads.hidden.0.weight"] == (1024, 512, 3, 3)
    assert shapes["heads.class_maps.weight"] == (2 * 9, 1024, 1, 1)
    assert shapes["heads.box_maps.weight"] == (4 * 9, 1024, 1, 1)
    assert shapes["proposals.head.cls_logits.weight"] == (4, 512, 1, 1)
    megabytes = sum(p.numel() for p in detector.parameters()) * 4 / 1e6
    assert megabytes == pytest.approx(87, abs=0.5)  # Wei et al. 2018, Table 1


@pytest.mark.parametrize("wrong", [{"hidden_kernel": 2}, {"hidden_channels": -1}])
def test_impossible_networks_are_refused(wrong):
    with pytest.raises(ValueError, match="kernel"):
        RFCNConfig(("x",), **wrong)
    with pytest.raises(ValueError, match="at least 1"):
        RFCNRegionConfig(hardest=0)
