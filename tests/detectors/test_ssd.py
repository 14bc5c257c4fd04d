from dataclasses import replace

import pytest
import torch
from torchvision.models.detection import ssd as torchvision_ssd
from torchvision.models.detection._utils import SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from tinydet.backbones import MobileNetConfig, ResNetConfig, VGGConfig
from tinydet.config import from_plain, to_plain
from tinydet.data.batch import Batch, Target
from tinydet.detectors import DetectorConfig, build_detector
from tinydet.detectors.choice import DetectorChoice, detector_config
from tinydet.detectors.default_boxes import DEFAULT_BOXES_1917, DEFAULT_BOXES_3000, DefaultBoxConfig, default_boxes
from tinydet.detectors.matching import BACKGROUND, UNDECIDED
from tinydet.detectors.outputs import DensePredictions, Detector, DetectorOutputs
from tinydet.detectors.ssd import SSD, SSD300_PREPROCESSING, SSDConfig
from tinydet.detectors.ssd_loss import SSDLossConfig, counted_boxes, match_default_boxes, ssd_losses
from tinydet.errors import InputError
from tinydet.preprocessing import Preprocessing
from tinydet.quantizers import UniformQuantizerConfig

SIZES_300 = [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
CLASSES = ("x", "y", "z")
TINY = SSDConfig(CLASSES, MobileNetConfig(16))
NOTHING = torch.zeros(0, 4)


def target_of(boxes, labels, ignored=NOTHING) -> Target:
    return Target(torch.tensor(boxes).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64), ignored)


def make_batch(count: int = 2, size_hw=(300, 300), channels: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(1)
    targets = (target_of([[10.0, 20, 160, 170], [130, 5, 190, 260]], [0, 2]), target_of([], []))
    names = tuple(str(index) for index in range(count))
    images = torch.rand(count, channels, *size_hw, generator=generator) * 255
    sizes = (size_hw,) * count
    return Batch(images, sizes, sizes, tuple(targets[index % 2] for index in range(count)), names, names)


def random_target(generator: torch.Generator, objects: int, classes: int = 3) -> Target:
    corners = torch.rand(objects, 2, generator=generator) * 200
    sides = 5 + torch.rand(objects, 2, generator=generator) * 95
    labels = torch.randint(classes, (objects,), generator=generator)
    return Target(torch.cat([corners, corners + sides], dim=1), labels, NOTHING)


def torchvision_detector(classes: int = 4) -> torchvision_ssd.SSD:
    """torchvision's SSD around nothing: its matching, loss and postprocessing alone are used."""
    return torchvision_ssd.SSD(
        torch.nn.Identity(), DefaultBoxGenerator([[2, 3]] * 6), (300, 300), classes, head=torch.nn.Identity()
    )


def test_the_layouts_have_the_published_counts():
    assert len(default_boxes(DEFAULT_BOXES_1917, SIZES_300, (300, 300))) == 1917
    assert len(default_boxes(DEFAULT_BOXES_3000, SIZES_300, (300, 300))) == 3000
    assert DEFAULT_BOXES_1917.per_cell() == (3, 6, 6, 6, 6, 6)


def test_default_boxes_are_torchvisions():
    theirs = DefaultBoxGenerator([[2, 3]] * 6, min_ratio=0.2, max_ratio=0.95)
    image = ImageList(torch.zeros(1, 3, 200, 300), [(200, 300)])
    expected = theirs(image, [torch.zeros(1, 1, *size) for size in SIZES_300])[0]
    torch.testing.assert_close(default_boxes(DEFAULT_BOXES_3000, SIZES_300, (200, 300)), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("shapes", [(), ((),), (((0.1, 0.0),),), (((-0.1, 1.0),),)])
def test_default_boxes_without_a_shape_are_refused(shapes):
    with pytest.raises(ValueError, match="default box"):
        DefaultBoxConfig(shapes)


@pytest.mark.parametrize("boxes", [DEFAULT_BOXES_1917, DEFAULT_BOXES_3000])
def test_a_teacher_of_any_width_has_the_students_default_boxes(boxes):
    batch = make_batch()
    found = []
    for divisor in (16, 1, 0.6):
        detector = SSD(SSDConfig(CLASSES, MobileNetConfig(divisor), boxes=boxes)).eval()
        with torch.no_grad():
            dense = detector(batch).dense
        found.append(dense.anchors_xyxy)
        assert dense.logits.shape == (2, len(dense.anchors_xyxy), 4)
        assert dense.deltas.shape == (2, len(dense.anchors_xyxy), 4)
        assert detector.feature_channels[0] == round(512 / divisor)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert len(found[0]) in (1917, 3000)


def test_matching_is_torchvisions():
    generator = torch.Generator().manual_seed(0)
    boxes = default_boxes(DEFAULT_BOXES_3000, SIZES_300, (300, 300))
    for objects in (1, 2, 7, 30):
        target = random_target(generator, objects)
        expected = SSDMatcher(0.5)(box_iou(target.boxes_xyxy, boxes))
        assert torch.equal(match_default_boxes(boxes, target, 0.5), expected)


def test_the_last_of_two_objects_has_the_box_that_is_best_for_both():
    target = target_of([[0.0, 0, 10, 10], [1, 0, 11, 10]], [0, 1])
    assert match_default_boxes(torch.tensor([[0.0, 0, 11, 11], [80, 80, 90, 90]]), target, 0.5).tolist() == [
        1,
        BACKGROUND,
    ]


def test_losses_are_torchvisions():
    generator = torch.Generator().manual_seed(3)
    boxes = default_boxes(DEFAULT_BOXES_1917, SIZES_300, (300, 300))
    logits = torch.randn(3, len(boxes), 4, generator=generator) * 2
    deltas = torch.randn(3, len(boxes), 4, generator=generator)
    targets = tuple(random_target(generator, objects) for objects in (1, 0, 9))
    plain = [{"boxes": t.boxes_xyxy, "labels": t.labels + 1} for t in targets]
    matcher = SSDMatcher(0.5)
    none = torch.full((len(boxes),), -1)
    matches = [matcher(box_iou(t.boxes_xyxy, boxes)) if len(t.labels) else none for t in targets]
    expected = torchvision_detector().compute_loss(
        plain, {"bbox_regression": deltas, "cls_logits": logits}, [boxes] * 3, matches
    )
    losses = ssd_losses(DensePredictions(logits, deltas, boxes, (10.0, 10.0, 5.0, 5.0)), targets, SSDLossConfig())
    torch.testing.assert_close(losses["detection_class"], expected["classification"])
    torch.testing.assert_close(losses["detection_box"], expected["bbox_regression"])


def test_detections_are_torchvisions():
    generator = torch.Generator().manual_seed(4)
    detector = SSD(TINY).eval()
    logits = torch.randn(2, 1917, 4, generator=generator) * 3
    deltas = torch.randn(2, 1917, 4, generator=generator) * 2
    sizes = ((300, 300), (250, 280))
    dense = DensePredictions(logits, deltas, detector.anchors_xyxy, detector.config.box_weights)
    found = detector.postprocess(DetectorOutputs((), (), (), sizes, dense))
    expected = torchvision_detector().postprocess_detections(
        {"bbox_regression": deltas, "cls_logits": logits}, [detector.anchors_xyxy] * 2, list(sizes)
    )
    for ours, theirs in zip(found, expected):
        assert len(ours.scores) == 200
        torch.testing.assert_close(ours.boxes_xyxy, theirs["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(ours.scores, theirs["scores"])
        assert torch.equal(ours.labels, theirs["labels"] - 1)


def test_mining_by_hand():
    losses = torch.tensor([[5.0, 1.0, 4.0, 3.0, 2.0, 9.0, 0.5], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]])
    labels = torch.tensor([[1, 0, 0, 0, 0, -1, 0], [0, 0, 0, 0, 0, -1, 0]])
    counted = counted_boxes(losses, labels, SSDLossConfig(negatives_per_positive=2))
    assert counted[0].tolist() == [True, False, True, True, False, False, False]
    assert not counted[1].any()
    counted = counted_boxes(losses, labels, SSDLossConfig(negatives_per_positive=2, fewest_negatives=1))
    assert counted[1].tolist() == [False] * 6 + [True]
    everything = counted_boxes(losses, labels, SSDLossConfig(negatives_per_positive=100))
    assert everything[0].tolist() == [True] * 5 + [False, True]


def test_what_lies_in_an_ignored_object_is_not_background():
    boxes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [100, 100, 110, 110]])
    target = target_of([[0.0, 0, 10, 10]], [1], torch.tensor([[48.0, 48, 62, 62]]))
    assert match_default_boxes(boxes, target, 0.5).tolist() == [0, UNDECIDED, BACKGROUND]
    logits = torch.zeros(1, 3, 3, requires_grad=True)
    dense = DensePredictions(logits, torch.zeros(1, 3, 4), boxes, (10.0, 10.0, 5.0, 5.0))
    ssd_losses(dense, (target,), SSDLossConfig())["detection_class"].backward()
    assert logits.grad.abs().sum(dim=2)[0].gt(0).tolist() == [True, False, True]


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, predictor="lite", separable_extras=True),
        replace(TINY, predictor="1x1", boxes=DEFAULT_BOXES_3000),
        replace(TINY, backbone=ResNetConfig(18, 16)),
        replace(TINY, backbone=VGGConfig(32), extra_channels=(512, 512, 256, 256, 128)),
        replace(TINY, backbone=MobileNetConfig(16, "frozen")),
        replace(TINY, preprocessing=Preprocessing(channels="gray", mean=(9.0,), std=(60.0,), fixed_size_hw=(160, 224))),
    ],
)
def test_every_variant_learns_and_detects(config):
    torch.manual_seed(0)
    detector = build_detector(config)
    assert isinstance(detector, Detector)
    assert from_plain(DetectorConfig, to_plain(config)) == config
    height, width = config.preprocessing.fixed_size_hw
    batch = make_batch(2, (height, width), config.preprocessing.channel_count)
    losses = detector.criterion(detector.train()(batch), batch.targets)
    assert set(losses) == {"detection_class", "detection_box"}
    sum(losses.values()).backward()
    without = [name for name, p in detector.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    within = sum(len(list(block.parameters())) for block in detector.blocks().values())
    assert within == len(list(detector.parameters()))
    for found in detector.eval().postprocess(detector(batch)):
        assert (found.boxes_xyxy >= 0).all()
        assert (found.boxes_xyxy <= torch.tensor([width, height, width, height])).all()
        assert (found.labels < 3).all()
        assert (found.scores.diff() <= 0).all()


def test_a_batch_of_one_image_trains():
    detector = SSD(TINY).train()
    batch = make_batch(1)
    assert detector.feature_channels[-1] == 8
    assert detector(batch).features[-1].shape[-2:] == (1, 1)
    sum(detector.criterion(detector(batch), batch.targets).values()).backward()


def test_a_few_steps_lower_the_loss():
    torch.manual_seed(0)
    detector = SSD(TINY).train()
    batch = make_batch(2)
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(20):
        loss = sum(detector.criterion(detector(batch), batch.targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_frozen_blocks_keep_their_weights_and_statistics():
    torch.manual_seed(0)
    detector = SSD(replace(TINY, backbone=MobileNetConfig(16, frozen_blocks=5))).train()
    before = {name: value.clone() for name, value in detector.backbone.state_dict().items()}
    batch = make_batch()
    trained = [p for p in detector.parameters() if p.requires_grad]
    sum(detector.criterion(detector(batch), batch.targets).values()).backward()
    torch.optim.SGD(trained, lr=0.1, weight_decay=0.1).step()
    changed = {name for name, value in detector.backbone.state_dict().items() if not torch.equal(value, before[name])}
    blocks = {int(name.split(".")[2].split("_")[2]) for name in changed if name.startswith("parts")}
    assert blocks == set(range(6, 14))
    assert not any(name.startswith("conv1") for name in changed)
    unfrozen = SSD(replace(TINY, backbone=MobileNetConfig(16)))
    assert all(p.requires_grad for p in unfrozen.parameters())
    with pytest.raises(ValueError, match="frozen blocks"):
        MobileNetConfig(frozen_blocks=14)


def test_the_quantizer_acts_on_chosen_maps_and_not_on_what_mimicking_takes():
    torch.manual_seed(0)
    detector = SSD(replace(TINY, quantizer=UniformQuantizerConfig(0.5), quantized_maps=(1, 3))).eval()
    batch = make_batch()
    outputs = detector(batch)
    whole = [torch.equal(x / 0.5, (x / 0.5).round()) for x in outputs.features]
    assert whole == [False, True, False, True, False, False]
    assert not torch.equal(outputs.unquantized_features[1] / 0.5, (outputs.unquantized_features[1] / 0.5).round())
    for ours, theirs in zip(detector.features(batch), outputs.unquantized_features):
        assert torch.equal(ours, theirs)


def test_regions_of_interest_are_the_confident_default_boxes_thinned_out():
    torch.manual_seed(0)
    detector = SSD(TINY).eval()
    batch = make_batch()
    found = detector.regions_of_interest(batch, 50)
    assert found.strides == (16, 32, 64, 128, 256, 512)
    assert [len(boxes) for boxes in found.boxes_xyxy] == [50, 50]
    for boxes in found.boxes_xyxy:
        assert box_iou(boxes, boxes).fill_diagonal_(0).max() <= 0.7
    outputs = detector(batch)
    confident = (1 - outputs.dense.logits.softmax(dim=2)[0, :, 0]).argmax()
    nearest = box_iou(outputs.dense.anchors_xyxy[confident][None], found.boxes_xyxy[0][:1])
    assert nearest.item() > 0.5


def test_a_wrong_configuration_or_batch_is_refused():
    with pytest.raises(ValueError, match="need 4 extra_channels"):
        SSD(replace(TINY, extra_channels=(512,)))
    with pytest.raises(ValueError, match="fixed_size_hw"):
        replace(TINY, preprocessing=replace(SSD300_PREPROCESSING, fixed_size_hw=None))
    with pytest.raises(ValueError, match="quantized maps"):
        replace(TINY, quantized_maps=(6,))
    with pytest.raises(ValueError, match="300"):
        SSD(TINY)(make_batch(size_hw=(96, 128)))


def test_a_choice_in_a_few_words():
    few = DetectorChoice("ssd", "mobilenet_v1", 0.5, 300, default_boxes=3000, predictor="lite", frozen_blocks=3)
    config = detector_config(few, CLASSES)
    assert config.backbone == MobileNetConfig(0.5, "batch", 3)
    assert config.preprocessing.fixed_size_hw == (300, 300)
    assert (config.boxes, config.predictor, config.separable_extras) == (DEFAULT_BOXES_3000, "lite", True)
    tiny = DetectorChoice("ssd", "vgg16", 32, 160)
    assert len(SSD(detector_config(tiny, CLASSES)).feature_channels) == 6
    with pytest.raises(InputError, match="default boxes of its own"):
        detector_config(replace(few, anchor_sides=(32.0,)), CLASSES)
    with pytest.raises(InputError, match="frozen blocks are of mobilenet_v1"):
        detector_config(replace(few, backbone="resnet18"), CLASSES)
