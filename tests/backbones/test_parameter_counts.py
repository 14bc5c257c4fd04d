"""Every backbone at full width is its library's or paper's network, and at any width follows the rule of division."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from tinydet.backbones import MobileNetConfig, ResNetConfig, VGGConfig, build_backbone, build_region_trunk


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def both_parts(config, in_channels: int = 3) -> int:
    with torch.device("meta"):
        return count(build_backbone(config, in_channels)) + count(build_region_trunk(config, 7))


@pytest.mark.parametrize(
    ("config", "reference", "left_out"),
    [
        (ResNetConfig(18), "resnet18", ("fc",)),
        (ResNetConfig(50), "resnet50", ("fc",)),
        (VGGConfig(), "vgg16_bn", ("classifier.6",)),
        (VGGConfig(normalization="none"), "vgg16", ("classifier.6",)),
    ],
)
def test_at_full_width_it_is_torchvisions_network_but_for_the_classifier(config, reference, left_out):
    with torch.device("meta"):
        network = torchvision.models.get_model(reference, weights=None)
    theirs = count(network) - sum(count(network.get_submodule(name)) for name in left_out)
    assert both_parts(config) == theirs


def test_mobilenet_has_the_papers_parameters():
    """Howard et al. 2017, Table 1: conv1, then a depthwise and a pointwise convolution a row, all with batch norm."""
    rows = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    expected, before = 3 * 32 * 9 + 2 * 32, 32
    for after in rows:
        expected += 9 * before + 2 * before + before * after + 2 * after
        before = after
    assert both_parts(MobileNetConfig()) == expected
    assert expected + 1024 * 1000 + 1000 == 4_231_976  # what is published for the whole classifier: 4.2 million


FULL = {"resnet18": 256, "resnet50": 1024, "vgg16": 512, "mobilenet_v1": 512}
CONFIGS = {
    "resnet18": lambda n: ResNetConfig(18, n),
    "resnet50": lambda n: ResNetConfig(50, n),
    "vgg16": lambda n: VGGConfig(n),
    "mobilenet_v1": lambda n: MobileNetConfig(n),
}


@pytest.mark.parametrize("width", [0.5, 0.75, 1, 4, 16, 32, 1024])
@pytest.mark.parametrize("name", FULL)
def test_the_map_has_its_channels_divided_by_n_and_at_least_one(name, width):
    with torch.device("meta"):
        backbone = build_backbone(CONFIGS[name](width), 3)
    expansion = 4 if name == "resnet50" else 1  # the rule divides a bottleneck's inner channels
    expected = max(1, int(FULL[name] / expansion / width + 0.5)) * expansion
    assert backbone.channels == (expected,)
    assert backbone.strides == (16,)


@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_one_or_three_channels_to_a_map_at_stride_16(name, in_channels):
    backbone = build_backbone(CONFIGS[name](32), in_channels).eval()
    (features,) = backbone(torch.rand(2, in_channels, 64, 96))
    assert features.shape == (2, backbone.channels[0], 4, 6)
    first = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    assert first.in_channels == in_channels


@pytest.mark.parametrize("name", FULL)
def test_widening_quadruples_the_parameters_of_inner_layers(name):
    """n = 1/2 doubles every layer's channels, so a plain convolution has four times the weights."""
    plain, wide = (both_parts(CONFIGS[name](n)) for n in (1, 0.5))
    assert 3.8 < wide / plain < 4


@pytest.mark.parametrize("name", FULL)
def test_the_trunk_takes_a_regions_features_to_one_vector(name):
    trunk, backbone = build_region_trunk(CONFIGS[name](16), 7).eval(), build_backbone(CONFIGS[name](16), 3)
    assert trunk(torch.rand(5, backbone.channels[0], 7, 7)).shape == (5, trunk.out_channels)
