import pytest
import torch

from tinydet.backbones import MobileNetConfig, ResNetConfig, VGGConfig
from tinydet.backbones.dilation import build_map_trunk
from tinydet.backbones.mobilenet import MobileNetRegionTrunk
from tinydet.backbones.resnet import ResNetRegionTrunk


@pytest.mark.parametrize(
    ("config", "regions"),
    [
        (ResNetConfig(18, 16), ResNetRegionTrunk),
        (ResNetConfig(50, 32), ResNetRegionTrunk),
        (MobileNetConfig(16), MobileNetRegionTrunk),
    ],
)
def test_every_second_cell_is_what_the_strided_layers_give(config, regions):
    torch.manual_seed(0)
    on_regions = regions(config).double().eval()
    channels = next(m.in_channels for m in on_regions.modules() if isinstance(m, torch.nn.Conv2d))
    on_maps, out_channels = build_map_trunk(config, channels)
    on_maps = on_maps.double().eval()
    on_maps.load_state_dict(on_regions.state_dict())  # the same names
    layers = on_regions.layer4 if hasattr(on_regions, "layer4") else on_regions.blocks
    x = torch.randn(1, channels, 16, 12, dtype=torch.float64)
    dilated = on_maps(x)
    assert dilated.shape == (1, out_channels, 16, 12)
    torch.testing.assert_close(dilated[:, :, ::2, ::2], layers(x))


def test_a_vgg_has_nothing_after_stride_16():
    trunk, channels = build_map_trunk(VGGConfig(32), 16)
    assert (len(trunk), channels) == (0, 16)
