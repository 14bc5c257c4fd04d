import math
from dataclasses import replace

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from tinydet.backbones import MobileNetConfig, ResNetConfig, VGGConfig
from tinydet.data.batch import Batch, Target
from tinydet.detectors import FasterRCNN, FasterRCNNConfig
from tinydet.detectors.anchors import (
    FASTER_RCNN_ANCHORS,
    QUANTIZATION_MIMIC_RESNET_ANCHORS,
    anchors_of_map,
    cell_anchors,
)
from tinydet.detectors.box_coding import decode, encode
from tinydet.detectors.matching import BACKGROUND, UNDECIDED, MatchConfig, match
from tinydet.detectors.regions import RegionConfig
from tinydet.preprocessing import Preprocessing
from tinydet.quantizers import UniformQuantizerConfig

GRAY = Preprocessing(channels="gray", mean=(120.0,), std=(60.0,))
SIZES = ((96, 128), (80, 100))


def make_batch(channels: int = 3, sizes=SIZES) -> Batch:
    generator = torch.Generator().manual_seed(1)
    target = Target(torch.tensor([[10.0, 20, 60, 70], [30, 5, 90, 60]]), torch.tensor([0, 2]), torch.zeros(0, 4))
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    images = torch.rand(len(sizes), channels, 96, 128, generator=generator) * 255
    for image, (height, width) in zip(images, sizes):
        image[:, height:], image[:, :, width:] = 0, 0
    names = tuple("ab"[: len(sizes)])
    return Batch(images, tuple(sizes), tuple(sizes), (target, nothing)[: len(sizes)], names, names)


@pytest.mark.parametrize(
    ("backbone", "preprocessing"),
    [
        (ResNetConfig(18, 16), Preprocessing()),
        (ResNetConfig(18, 16), GRAY),
        (ResNetConfig(50, 32, "frozen"), Preprocessing()),
        (VGGConfig(32), GRAY),
        (VGGConfig(32, "none"), Preprocessing()),
        (MobileNetConfig(8), Preprocessing()),
    ],
)
def test_every_backbone_learns_and_detects(backbone, preprocessing):
    torch.manual_seed(0)
    detector = FasterRCNN(FasterRCNNConfig(("x", "y", "z"), backbone, preprocessing))
    batch = make_batch(preprocessing.channel_count)
    losses = detector.criterion(detector.train()(batch), batch.targets)
    assert set(losses) == {"proposal_class", "proposal_box", "detection_class", "detection_box"}
    sum(losses.values()).backward()
    without = [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    detections = detector.eval().postprocess(detector(batch))
    assert len(detections) == 2
    for found, (height, width) in zip(detections, SIZES):
        assert (found.boxes_xyxy >= 0).all()
        assert (found.boxes_xyxy <= torch.tensor([width, height, width, height])).all()
        assert (found.labels < 3).all()


def test_padding_beside_a_larger_image_changes_little_and_beside_an_equal_one_nothing():
    torch.manual_seed(0)
    detector = FasterRCNN(FasterRCNNConfig(("x",), ResNetConfig(18, 16))).eval()
    batch = make_batch(sizes=((96, 128), (96, 128)))
    together = detector(batch)
    alone = detector(batch.of_image(1))
    torch.testing.assert_close(together.features[0][1], alone.features[0][0], rtol=1e-4, atol=1e-5)


def test_the_quantizer_acts_on_what_detection_sees_and_not_on_what_mimicking_takes():
    torch.manual_seed(0)
    config = FasterRCNNConfig(("x",), ResNetConfig(18, 8), quantizer=UniformQuantizerConfig(0.5))
    outputs = FasterRCNN(config).eval()(make_batch())
    codes = outputs.features[0] / 0.5
    assert torch.equal(codes, codes.round())
    raw = outputs.unquantized_features[0] / 0.5
    assert not torch.equal(raw, raw.round())


def test_class_agnostic_boxes_share_one_offset():
    config = FasterRCNNConfig(("x", "y"), ResNetConfig(18, 16), regions=RegionConfig(class_agnostic_boxes=True))
    detector = FasterRCNN(config)
    batch = make_batch()
    batch = replace(batch, targets=tuple(replace(t, labels=t.labels.clamp(max=1)) for t in batch.targets))
    outputs = detector.train()(batch)
    assert outputs.regions.deltas.shape[1:] == (4,)
    sum(detector.criterion(outputs, batch.targets).values()).backward()
    detector.eval().postprocess(detector(batch))


@pytest.mark.parametrize("config", [FASTER_RCNN_ANCHORS, QUANTIZATION_MIMIC_RESNET_ANCHORS])
def test_anchors_are_torchvisions(config):
    theirs = AnchorGenerator(config.sides, (config.ratios,))
    image = ImageList(torch.zeros(1, 3, 96, 128), [(96, 128)])
    expected = theirs(image, [torch.zeros(1, 1, 6, 8)])[0]
    ours = anchors_of_map(cell_anchors(config.sides[0], config.ratios), (6, 8), 16)
    assert torch.equal(ours.sort(dim=0).values, expected.sort(dim=0).values)
    areas = (ours[:, 2] - ours[:, 0]) * (ours[:, 3] - ours[:, 1])
    sides = areas.reshape(-1, len(config.sides[0])).sqrt()
    assert (sides / torch.tensor(config.sides[0]) - 1).abs().max() < 0.02


def test_box_offsets_are_torchvisions_and_invert():
    torch.manual_seed(0)
    weights = (10.0, 10.0, 5.0, 5.0)
    corners = torch.rand(50, 2) * 100
    boxes, anchors = (torch.cat([corners + s, corners + s + 5 + torch.rand(50, 2) * 80], 1) for s in (0, 9))
    deltas = encode(boxes, anchors, weights)
    coder = BoxCoder(weights)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, anchors))
    torch.testing.assert_close(decode(deltas, anchors, weights), boxes)
    wild = torch.randn(50, 4) * 40
    torch.testing.assert_close(decode(wild, anchors, weights), coder.decode_single(wild, anchors), rtol=1e-4, atol=1e-2)


def test_matching_by_hand():
    target = Target(
        torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]), torch.tensor([0, 1]), torch.tensor([[100.0, 100, 120, 120]])
    )
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 25], [200, 200, 210, 210], [101, 101, 110, 110], [55, 50, 65, 60]]
    )
    config = MatchConfig(0.7, 0.45)
    assert match(boxes, target, config).tolist() == [0, UNDECIDED, BACKGROUND, BACKGROUND, UNDECIDED, BACKGROUND]
    assert match(boxes, target, replace(config, best_counts=True)).tolist()[-1] == 1
    assert match(boxes[:0], target, config).tolist() == []


def test_detections_come_from_the_regions_scores():
    config = FasterRCNNConfig(("x", "y"), ResNetConfig(18, 16))
    detector = FasterRCNN(config).eval()
    outputs = detector(make_batch().of_image(0))
    regions = outputs.regions
    logits = torch.zeros_like(regions.logits)
    logits[:, 0] = 20.0
    logits[0] = torch.tensor([0.0, 0.0, math.log(8.0)])  # 0.1, 0.1, 0.8
    set_by_hand = replace(outputs, regions=replace(regions, logits=logits, deltas=torch.zeros_like(regions.deltas)))
    (found,) = detector.postprocess(set_by_hand)
    assert found.labels.tolist()[0] == 1
    torch.testing.assert_close(found.scores, torch.tensor([0.8, 0.1]))
    torch.testing.assert_close(found.boxes_xyxy[0], regions.boxes_xyxy[0][0], rtol=1e-4, atol=1e-3)
