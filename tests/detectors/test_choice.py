"""What a person says about a detector, and what it becomes."""

from __future__ import annotations

import pytest

from tinydet.backbones import ResNetConfig, VGGConfig
from tinydet.backbones.width import MOST_CHANNELS, divided_channels, grouped_channels
from tinydet.detectors import RFCNConfig
from tinydet.detectors.choice import DetectorChoice, detector_config, said_of_network, words_of
from tinydet.detectors.rfcn import RFCNRegionConfig
from tinydet.errors import InputError

CLASSES = ("a", "b")


def test_an_rfcn_is_the_papers_unless_it_is_said_otherwise():
    usual = detector_config(DetectorChoice("rfcn", "vgg16", 32), CLASSES)
    paper = RFCNConfig(CLASSES, VGGConfig(32))
    assert usual == paper
    assert (paper.regions.hardest, paper.regions.output_size, paper.hidden_channels) == (128, 3, 1024)


def test_every_word_about_an_rfcn_is_heard():
    choice = DetectorChoice(
        *("rfcn", "resnet18", 16),
        class_agnostic_boxes=False,
        bins=7,
        hardest=64,
        hidden_channels=512,
        hidden_kernel=1,
    )
    config = detector_config(choice, CLASSES)
    assert isinstance(config, RFCNConfig)
    assert config.backbone == ResNetConfig(18, 16)
    assert config.regions == RFCNRegionConfig(output_size=7, class_agnostic_boxes=False, hardest=64)
    assert (config.hidden_channels, config.hidden_kernel) == (512, 1)
    by_chance = detector_config(DetectorChoice("rfcn", "vgg16", 32, hardest=0, hidden_channels=0), CLASSES)
    assert isinstance(by_chance, RFCNConfig)
    assert by_chance.regions.hardest is None
    assert by_chance.hidden_channels == 0


@pytest.mark.parametrize(("detector", "usual"), [("faster_rcnn", False), ("faster_rcnn_fpn", False), ("rfcn", True)])
def test_boxes_of_each_class_or_of_none(detector, usual):
    found = [
        detector_config(DetectorChoice(detector, class_agnostic_boxes=said), CLASSES).regions.class_agnostic_boxes
        for said in (None, True, False)
    ]
    assert found == [usual, True, False]


@pytest.mark.parametrize(
    ("detector", "said"),
    [
        ("faster_rcnn", {"hardest": 64}),
        ("faster_rcnn_fpn", {"hidden_channels": 0}),
        ("faster_rcnn", {"hidden_kernel": 1}),
        ("rfcn", {"default_boxes": 3000}),
        ("rfcn", {"predictor": "lite"}),
        ("ssd", {"bins": 7}),
        ("ssd", {"class_agnostic_boxes": False}),
        ("ssd", {"anchor_ratios": (1.0,)}),
    ],
)
def test_what_says_nothing_to_a_detector_is_refused(detector, said):
    (name,) = said
    with pytest.raises(InputError, match=f"{name.replace('_', ' ')} .* says nothing to {detector}"):
        detector_config(DetectorChoice(detector, **said), CLASSES)


def test_what_was_said():
    assert said_of_network(DetectorChoice("ssd", "mobilenet_v1", 4, 300, gray=True)) == {}
    assert said_of_network(DetectorChoice(groups=2, hardest=0)) == {"hardest": 0, "groups": 2}


@pytest.mark.parametrize(
    "choice",
    [
        DetectorChoice("faster_rcnn", "resnet50", 2, 320, normalization="frozen"),
        DetectorChoice("faster_rcnn_fpn", "resnet18", 0.5, 800, gray=True),
        DetectorChoice("rfcn", "vgg16", 32, 600, normalization="none"),
        DetectorChoice("ssd", "mobilenet_v1", 4, 200),
    ],
)
def test_the_words_of_a_configuration_are_those_it_was_chosen_by(choice):
    words = words_of(detector_config(choice, CLASSES))
    assert words == {name: getattr(choice, name) for name in words}
    assert len(words) == 6


def test_channels_have_a_bound():
    assert divided_channels(4096, 0.25) == MOST_CHANNELS
    assert divided_channels(512, 1e300) == 1
    for width in (0.249, 1e-9, 1e-320):
        with pytest.raises(InputError, match=r"a layer of 4,096 channels .* the most is 16,384"):
            divided_channels(4096, width)
    assert grouped_channels(512, 1024) == 1024 * 16
    with pytest.raises(InputError, match="take fewer groups"):
        grouped_channels(512, 1025)
    with pytest.raises(ValueError, match="not positive"):
        divided_channels(64, float("nan"))
