"""The part after stride 16, applied to whole maps instead of regions: no smaller, by the "hole algorithm" (a trous).

R-FCN computes every layer once for the whole image (Dai et al. 2016, section 2): a ResNet's layer4 loses its stride and
its later 3x3 convolutions are dilated, so that pretrained weights keep their meaning.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from tinydet.backbones.mobilenet import MobileNetConfig, MobileNetRegionTrunk
from tinydet.backbones.resnet import ResNetConfig, ResNetRegionTrunk
from tinydet.backbones.vgg import VGGConfig


def build_map_trunk(config: ResNetConfig | VGGConfig | MobileNetConfig, in_channels: int) -> tuple[nn.Sequential, int]:
    """Layers from `[B, in_channels, H, W]` to `[B, channels, H, W]`, and that number of channels.

    They bear the names that they have in the trunk on regions. A VGG has none: all of its convolutions come before.
    """
    match config:
        case ResNetConfig():
            resnet = ResNetRegionTrunk(config)
            return at_stride_one(nn.Sequential(OrderedDict(layer4=resnet.layer4))), resnet.out_channels
        case MobileNetConfig():
            mobilenet = MobileNetRegionTrunk(config)
            return at_stride_one(nn.Sequential(OrderedDict(blocks=mobilenet.blocks))), mobilenet.out_channels
        case VGGConfig():
            return nn.Sequential(), in_channels


def at_stride_one(layers: nn.Sequential) -> nn.Sequential:
    """The same layers with their one stride of 2 taken out: at every second cell the result is as before."""
    strided = False
    for layer in layers.modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        if strided and layer.kernel_size == (3, 3):
            layer.dilation = layer.padding = (2, 2)
        if layer.stride == (2, 2):
            layer.stride = (1, 1)
            strided = True
    return layers
