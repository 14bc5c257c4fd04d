from __future__ import annotations

from dataclasses import dataclass, field

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")

from torch import nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from tinydet.backbones import ResNetConfig  # noqa: E402
from tinydet.complexity import BlockComplexity, measure_complexity  # noqa: E402
from tinydet.data.batch import Batch  # noqa: E402
from tinydet.detectors import FasterRCNN, FasterRCNNConfig  # noqa: E402
from tinydet.detectors.outputs import DensePredictions, DetectorOutputs, RegionPredictions  # noqa: E402
from tinydet.preprocessing import Preprocessing  # noqa: E402


@dataclass
class _Config:
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


class _Heads(nn.Module):
    """As R-FCN's: a convolution once an image, then something for each region."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(8, 18, 1)
        self.each = nn.Linear(18, 5)

    def forward(self, features: torch.Tensor, regions: int) -> torch.Tensor:
        pooled = self.maps(features).mean(dim=(2, 3)).expand(regions, -1)
        return self.each(pooled)


class _Fake(nn.Module):
    """A detector whose counts are easily made by hand."""

    def __init__(self, regions: int) -> None:
        super().__init__()
        self.config, self.regions = _Config(), regions
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, padding=1, groups=4),
        )
        self.heads = _Heads()
        self.outside = nn.Parameter(torch.zeros(7))

    def blocks(self) -> dict[str, nn.Module]:
        return {"backbone": self.backbone, "heads": self.heads}

    def forward(self, batch: Batch) -> DetectorOutputs:
        features = self.backbone(batch.images)
        logits = self.heads(features, self.regions)
        dense = DensePredictions(logits[None, :, :1], torch.zeros(1, 1, 4), torch.zeros(1, 4), (1.0, 1.0, 1.0, 1.0))
        boxes = [torch.zeros(self.regions, 4)]
        region = RegionPredictions(boxes, logits, torch.zeros(self.regions, 4))
        return DetectorOutputs((features,), (features,), (2,), batch.sizes_hw, dense, boxes, region)


def test_counts_are_those_made_by_hand() -> None:
    complexity = measure_complexity(_Fake(regions=6), (20, 30), regions=300)
    cells = 10 * 15
    first, second = cells * 8 * 3 * 9, cells * 8 * (8 // 4) * 9
    parameters = 8 * 3 * 9 + 2 * 8 + (8 * 2 * 9 + 8)
    assert complexity.blocks["backbone"] == BlockComplexity(parameters, first + second)
    # The score maps once, the linear layer for each of 300 regions although the pass had 6.
    assert complexity.blocks["heads"] == BlockComplexity(8 * 18 + 18 + 18 * 5 + 5, cells * 8 * 18 + 300 * 18 * 5)
    assert complexity.blocks["rest"] == BlockComplexity(7, 0)
    assert complexity.parameters == sum(p.numel() for p in _Fake(6).parameters())
    assert complexity.multiply_adds == first + second + cells * 8 * 18 + 300 * 18 * 5


def test_too_few_regions_to_learn_from() -> None:
    with pytest.raises(ValueError, match="1 regions"):
        measure_complexity(_Fake(regions=1), (20, 30))


def test_faster_rcnn_against_pytorchs_own_counter_and_against_its_layers() -> None:
    torch.manual_seed(0)
    detector = FasterRCNN(FasterRCNNConfig(classes=("a", "b"), backbone=ResNetConfig(width_divisor=16))).train()
    by_layer = {name: 0 for name in detector.blocks()}
    regions: list[int] = []

    def counter(block: str):
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            weights = layer.weight.numel()
            places = output.numel() // output.shape[1]  # each place of each output channel meets weight/out inputs
            by_layer[block] += places * weights

        return hook

    handles = [
        layer.register_forward_hook(counter(name))
        for name, block in detector.blocks().items()
        for layer in block.modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    handles.append(detector.heads.register_forward_hook(lambda m, i, o: regions.append(len(o[0]))))
    with FlopCounterMode(display=False) as pytorchs:
        first = measure_complexity(detector, (128, 192), regions=10)
    for handle in handles:
        handle.remove()
    count = regions[0]
    assert count > 10
    assert detector.training  # left as it was
    assert first.blocks["heads"].multiply_adds == by_layer["heads"] * 10 // count
    assert first.blocks["backbone"].multiply_adds == by_layer["backbone"]
    assert first.blocks["proposals"].multiply_adds == by_layer["proposals"]
    same = measure_complexity(detector, (128, 192), regions=count)
    assert same.multiply_adds == pytorchs.get_total_flops() // 2
    assert first.parameters == sum(p.numel() for p in detector.parameters())
