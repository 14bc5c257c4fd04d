"""The networks of Wei et al. 2018, Table 3, whose convolutions are split while their complexity is kept.

    tinydet complexity --paper

VGG-1-32 with R-FCN at an input of 1000 x 600. The paper's multiply-adds are 227 M plain, 232 M depthwise, 286 M in 2
groups and 273 M in 3; docs/complexity.md has those measured here, and why they differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from tinydet.backbones import VGGConfig
from tinydet.detectors import RFCNConfig
from tinydet.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

TABLE3_INPUT_HW = (600, 1000)


@dataclass(frozen=True)
class MatchedNetwork:
    """Attributes:
    paper_mflops: multiply-adds in millions, as the paper gives them.
    """

    name: str
    config: RFCNConfig
    paper_mflops: int


def table3_networks(gray: bool = True, classes: tuple[str, ...] = ("face",)) -> tuple[MatchedNetwork, ...]:
    """The four networks; `gray` is the paper's one-channel input (section 3.5)."""
    if gray:
        mean, std = sum(IMAGENET_MEAN) / 3, sum(IMAGENET_STD) / 3
        preprocessing = Preprocessing(channels="gray", mean=(mean,), std=(std,))
    else:
        preprocessing = Preprocessing()

    def network(name: str, backbone: VGGConfig, paper_mflops: int) -> MatchedNetwork:
        return MatchedNetwork(name, RFCNConfig(classes, backbone, preprocessing), paper_mflops)

    return (
        network("plain", VGGConfig(32), 227),
        network("depthwise", VGGConfig(32, groups="depthwise"), 232),
        network("group 2", VGGConfig(32, groups=2), 286),
        network("group 3", VGGConfig(32, groups=3), 273),
    )
