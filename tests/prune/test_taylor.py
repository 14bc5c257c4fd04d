from __future__ import annotations

import pytest
import torch
from torch import nn

from tinydet.data.batch import Batch
from tinydet.prune.channels import ChannelGroup, Member, channel_groups
from tinydet.prune.taylor import TaylorConfig, activations_of, prune_by_taylor, taylor_scores


class Tiny(nn.Module):
    """A convolution, a residual branch and a mean: the loss of each image is a square."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 5, 3, padding=1)
        self.branch = nn.Conv2d(5, 5, 3, padding=1)
        self.last = nn.Conv2d(5, 2, 1)
        self.relu = nn.ReLU(inplace=True)
        nn.init.uniform_(self.bn1.bias, -0.5, 0.5)

    def forward(self, batch: Batch) -> torch.Tensor:
        x = self.relu(self.conv2(self.relu(self.bn1(self.conv1(batch.images)))))
        return self.last(self.relu(x + self.branch(x)))

    def criterion(self, outputs, targets) -> dict[str, torch.Tensor]:
        per_image = (outputs - 1).square().mean(dim=(1, 2, 3))
        return {"half": 0.5 * per_image.mean(), "rest": 0.5 * per_image.mean()}


def group(name: str, channels: int, *layers: str) -> ChannelGroup:
    entries = torch.arange(channels)[:, None]
    return ChannelGroup(name, "backbone", channels, tuple(Member(layer, "out", entries) for layer in layers))


GROUPS = (group("conv1", 4, "conv1", "bn1"), group("conv2", 5, "conv2", "branch"))


def batch_of(images: torch.Tensor) -> Batch:
    count = len(images)
    return Batch(images, ((8, 8),) * count, ((8, 8),) * count, (), ("",) * count, ("",) * count)


def loss_of(network: Tiny, images: torch.Tensor) -> float:
    with torch.no_grad():
        return float(sum(network.criterion(network(batch_of(images)), ()).values()))


@pytest.mark.parametrize(("name", "layers"), [("conv1", ("bn1",)), ("conv2", ("conv2", "branch"))])
def test_the_score_is_what_removing_the_channel_does_to_the_loss(name: str, layers: tuple[str, ...]):
    """A channel that says little is removed; the change of each image's loss is its score, to first order."""
    small = 1e-4
    channels = next(group.channels for group in GROUPS if group.name == name)
    images = torch.rand(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for channel in range(channels):
        network = Tiny().double().eval()
        with torch.no_grad():
            for layer in layers:
                network.get_submodule(layer).weight[channel] *= small
                network.get_submodule(layer).bias[channel] = small * 0.3
        score = taylor_scores(network, GROUPS, [batch_of(images)], normalized=False)[name][channel]
        before = [loss_of(network, image[None]) for image in images]
        with torch.no_grad():
            for layer in layers:
                network.get_submodule(layer).weight[channel] = 0
                network.get_submodule(layer).bias[channel] = 0
        after = [loss_of(network, image[None]) for image in images]
        change = sum(abs(b - a) for a, b in zip(before, after)) / len(images)
        assert change > 0
        assert float(score) * 64 == pytest.approx(change, rel=2e-2, abs=1e-9)


def test_scores_of_images_alone_and_together_are_the_same():
    network = Tiny().eval()
    images = torch.rand(4, 3, 8, 8)
    together = taylor_scores(network, GROUPS, [batch_of(images)], normalized=False)
    alone = taylor_scores(network, GROUPS, [batch_of(image[None]) for image in images], normalized=False)
    for name in together:
        assert torch.allclose(together[name], alone[name], rtol=1e-4)
    normalized = taylor_scores(network, GROUPS, [batch_of(images)])
    for name, score in normalized.items():
        assert torch.allclose(score, together[name] / together[name].norm(), rtol=1e-5)
        assert float(score.norm()) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet", "ssd", "vgg", "fpn"])
def test_measuring_leaves_a_detector_as_it_was(zoo, name: str):
    detector = zoo.make_detector(name)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    groups = channel_groups(detector)
    scores = taylor_scores(detector, groups, [zoo.make_batch(detector)])
    assert {key: len(score) for key, score in scores.items()} == {group.name: group.channels for group in groups}
    assert all(torch.isfinite(score).all() for score in scores.values())
    backbone = [scores[group.name] for group in groups if group.block == "backbone"]
    assert all(float(score.norm()) == pytest.approx(1, rel=1e-4) for score in backbone)
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())
    assert not any(module.training for module in detector.modules())
    assert all(parameter.grad is None for parameter in detector.parameters())


def test_feature_maps_are_those_after_normalization(zoo):
    detector = zoo.make_detector("mobilenet")
    first = next(group for group in channel_groups(detector) if group.name == "backbone.conv1")
    assert activations_of(detector, first) == ["backbone.conv1_bn"]
    resnet = zoo.make_detector("resnet18")
    stream = next(g for g in channel_groups(resnet) if g.name == "backbone.layer2.0.conv2")
    assert activations_of(resnet, stream) == [
        "backbone.layer2.0.bn2",
        "backbone.layer2.0.downsample.1",
        "backbone.layer2.1.bn2",
    ]


@pytest.mark.parametrize("scope", ["global", "local"])
def test_rounds_reach_the_whole_share_and_fine_tune_between(zoo, scope: str):
    detector = zoo.make_detector("resnet18")
    sizes = []

    def fine_tune(smaller, place: int):
        sizes.append(sum(group.channels for group in channel_groups(smaller) if group.block == "backbone"))
        return smaller

    config = TaylorConfig(0.5, rounds=3, batches=1, scope=scope)
    smaller, report = prune_by_taylor(detector, config, lambda place: [zoo.make_batch(detector)], fine_tune)
    rows = [row for row in report.groups if row.block == "backbone"]
    total = sum(row.before for row in rows)
    assert len(sizes) == 3
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == sum(row.after for row in rows) == total - round(0.5 * total)
    assert smaller.feature_channels[0] < detector.feature_channels[0] or scope == "global"


def test_without_a_batch_there_is_no_score(zoo):
    with pytest.raises(ValueError, match="no batch"):
        taylor_scores(Tiny(), GROUPS, [])
