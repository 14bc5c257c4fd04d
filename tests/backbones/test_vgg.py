import math

import pytest
import torch
from torch import nn

from tinydet.backbones import VGGConfig, build_backbone
from tinydet.backbones.width import depthwise_channels, divided_channels, grouped_channels
from tinydet.config import from_plain, to_plain


@pytest.mark.parametrize("groups", [1, 2, 3, 5])
def test_channels_in_groups_are_the_papers_rule_up_to_a_multiple(groups):
    for channels in range(1, 600):
        rule = math.ceil(math.sqrt(groups) * channels - 1e-9)
        assert rule <= grouped_channels(channels, groups) < rule + groups
        assert grouped_channels(channels, groups) % groups == 0


def test_depthwise_channels_cost_what_plain_ones_do():
    for channels in range(1, 600):
        wide = depthwise_channels(channels)
        assert 9 * (wide - 1) + (wide - 1) ** 2 < 9 * channels**2 <= 9 * wide + wide**2


@pytest.mark.parametrize(
    ("groups", "channels"),
    [(1, (2, 4, 8, 16)), (2, (4, 6, 12, 24)), (3, (6, 9, 15, 30)), ("depthwise", (3, 9, 20, 44))],
)
def test_vgg_1_32_in_groups(groups, channels):
    config = from_plain(VGGConfig, to_plain(VGGConfig(32, groups=groups)))
    network = build_backbone(config, 1)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    by_stage = sorted({c.out_channels for c in convolutions})
    assert by_stage == sorted(channels)
    assert convolutions[0].groups == 1
    for convolution in convolutions[1:]:
        if groups == "depthwise":
            assert (convolution.groups == convolution.in_channels) == (convolution.kernel_size == (3, 3))
        else:
            assert convolution.groups == groups
    (features,) = network(torch.randn(2, 1, 48, 64))
    assert features.shape == (2, channels[-1], 3, 4)
    assert network.channels == (channels[-1],)


@pytest.mark.parametrize("groups", [2, 3, "depthwise"])
@pytest.mark.parametrize("width", [1, 4])
def test_wide_variants_cost_what_the_plain_network_does(groups, width):
    """The first layer, which is not split, and rounding up make what is left."""

    def cost(config):
        with torch.device("meta"):
            network = build_backbone(config, 1)
            x, total = torch.zeros(1, 1, 64, 64), 0
            for layer in network.features:
                x = layer(x)
                if isinstance(layer, nn.Conv2d):
                    total += x.shape[-1] * x.shape[-2] * layer.weight.numel()
        return total

    plain = cost(VGGConfig(width, "none"))
    assert plain * 0.95 < cost(VGGConfig(width, "none", groups)) < plain * 1.12


def test_without_groups_it_is_torchvisions_network():
    names = set(build_backbone(VGGConfig(32, "none"), 3).state_dict())
    assert names == {
        f"features.{n}.{k}" for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28) for k in ("weight", "bias")
    }


def test_no_groups_at_all_are_refused():
    with pytest.raises(ValueError, match="0 groups"):
        VGGConfig(groups=0)


@pytest.mark.parametrize(("width", "expected"), [(1, 64), (16, 4), (32, 2), (64, 1), (1000, 1), (0.5, 128), (24, 3)])
def test_the_width_rule(width, expected):
    assert divided_channels(64, width) == expected
    with pytest.raises(ValueError, match="not positive"):
        divided_channels(64, 0)
