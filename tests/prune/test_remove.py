from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tinydet.complexity import measure_complexity
from tinydet.detectors.layer_channels import JoinedLayers, channels_of_layer, rebuilt
from tinydet.detectors.outputs import Detector
from tinydet.errors import InputError
from tinydet.prune.channels import channel_groups
from tinydet.prune.masks import PruneConfig
from tinydet.prune.remove import (
    dead_channels,
    remove_channels,
    remove_dead_channels,
    with_zero_channels,
    without_channels,
)
from tinydet.training import DetectionStep, load_checkpoint, save_checkpoint

EVERY = [
    "resnet18",
    "vgg",
    "vgg_plain",
    "vgg_depthwise",
    "vgg_regions",
    "resnet_rfcn",
    "mobilenet",
    "fpn",
    "ssd",
    "ssd_lite",
    "ssd_resnet",
]
HALF = PruneConfig(0.5, "all", "ln", structured=True)


def half_of_each(groups, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    removed = {}
    for group in groups:
        gone = torch.zeros(group.channels, dtype=torch.bool)
        gone[torch.randperm(group.channels, generator=generator)[: group.channels // 2]] = True
        removed[group.name] = gone
    return removed


@pytest.mark.parametrize("name", EVERY)
def test_outputs_are_those_of_the_network_with_zeros(zoo, name: str):
    detector = zoo.make_detector(name)
    groups = channel_groups(detector)
    removed = half_of_each(groups)
    zeroed = with_zero_channels(detector, groups, removed)
    smaller = without_channels(detector, groups, removed)
    image = torch.rand(1, 3, *(detector.config.preprocessing.fixed_size_hw or (96, 128)))
    with torch.no_grad():
        expected, found, dense = (JoinedLayers(d)(image) for d in (zeroed, smaller, detector))
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)
    assert any((one - other).abs().max() > 1e-3 for one, other in zip(expected, dense))
    for group in groups:
        layer = smaller.get_submodule(group.name)
        assert channels_of_layer(layer)[0] == group.channels - group.channels // 2
        assert not dead_channels(smaller, group_of(smaller, group.name)).any()


def group_of(detector, name: str):
    return next(group for group in channel_groups(detector) if group.name == name)


@pytest.mark.parametrize("name", ["resnet18", "vgg_plain", "fpn", "ssd"])
def test_channels_that_are_zero_go_without_a_trace(zoo, name: str):
    detector = zoo.make_detector(name)
    groups = channel_groups(detector)
    removed = half_of_each(groups)
    zeroed = with_zero_channels(detector, groups, removed)
    smaller, report = remove_dead_channels(zeroed)
    for group, row in zip(groups, report.groups, strict=True):
        assert row.after == group.channels - int(removed[group.name].sum())
    batch = zoo.make_batch(detector)
    with torch.no_grad():
        expected, found = zeroed(batch), smaller(batch)
    assert torch.allclose(expected.dense.logits, found.dense.logits, rtol=1e-5, atol=1e-5)
    assert torch.allclose(expected.dense.deltas, found.dense.deltas, rtol=1e-5, atol=1e-5)
    again, second = remove_dead_channels(smaller)
    assert second.parameters_after == second.parameters_before
    assert again.state_dict().keys() == smaller.state_dict().keys()


@pytest.mark.parametrize("name", EVERY)
def test_a_smaller_network_reloads_trains_and_is_a_detector(zoo, name: str, tmp_path: Path):
    detector = zoo.make_detector(name)
    smaller, report = remove_channels(detector, HALF)
    assert report.parameters_after < 0.45 * report.parameters_before
    save_checkpoint(tmp_path / "smaller", smaller)
    loaded, _ = load_checkpoint(tmp_path / "smaller")
    assert isinstance(loaded, Detector)
    assert {p.suffix for p in (tmp_path / "smaller").iterdir()} == {".json", ".safetensors"}
    for key, value in smaller.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key])
    batch = zoo.make_batch(loaded)
    with torch.no_grad():
        expected, found = smaller(batch), loaded(batch)
    assert torch.equal(expected.dense.logits, found.dense.logits)
    assert loaded.feature_channels == tuple(x.shape[1] for x in found.features)
    assert loaded.feature_channels == smaller.feature_channels
    losses = DetectionStep(loaded.train())(batch)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in loaded.backbone.parameters())


@pytest.mark.parametrize("scope", ["global", "local"])
def test_the_share_asked_for_is_reached_in_channels(zoo, scope: str):
    detector = zoo.make_detector("resnet18")
    config = PruneConfig(0.5, ("backbone", "heads"), "l1", structured=True, scope=scope)
    _, report = remove_channels(detector, config)
    for block in ("backbone", "heads"):
        rows = [row for row in report.groups if row.block == block]
        total = sum(row.before for row in rows)
        assert sum(row.before - row.after for row in rows) == round(0.5 * total)
    assert all(row.after == row.before for row in report.groups if row.block == "proposals")
    if scope == "local":
        assert all(row.after == row.before // 2 for row in report.groups if row.block == "backbone")


def test_the_smallest_filters_go(zoo):
    detector = zoo.make_detector("vgg_plain")
    with torch.no_grad():
        detector.backbone.features[5].weight[[1, 2]] *= 1e-3
    smaller, _ = remove_channels(detector, PruneConfig(0.5, structured=True, scope="local"))
    kept = detector.backbone.features[5].weight[[0, 3]]
    before = smaller.backbone.features[5].weight
    norms = detector.backbone.features[2].weight.abs().sum(dim=(1, 2, 3))
    assert torch.equal(before, kept[:, norms.argsort()[1:].sort().values])


def test_multiply_adds_fall_with_the_channels(zoo):
    detector = zoo.make_detector("vgg")
    smaller, _ = remove_channels(detector, PruneConfig(0.5, "all", structured=True, scope="local"))
    before, after = (measure_complexity(d, (96, 128), 10).multiply_adds for d in (detector, smaller))
    assert 0.2 < after / before < 0.4


def test_a_removed_detector_can_be_pruned_and_changed_again(zoo, tmp_path: Path):
    once, _ = remove_channels(zoo.make_detector("resnet18"), HALF)
    twice, report = remove_channels(once, HALF)
    assert report.parameters_after < 0.6 * report.parameters_before
    save_checkpoint(tmp_path / "twice", twice)
    loaded, _ = load_checkpoint(tmp_path / "twice")
    assert loaded.state_dict().keys() == twice.state_dict().keys()
    again = rebuilt(loaded, loaded.config)
    assert torch.equal(again.backbone.conv1.weight, twice.backbone.conv1.weight)
    assert again.feature_channels == twice.feature_channels


def test_a_grouped_convolution_stays_whole():
    from tinydet.backbones import VGGConfig
    from tinydet.detectors import RFCNConfig, build_detector

    detector = build_detector(RFCNConfig(("a",), VGGConfig(32, groups=2))).eval()
    for group in channel_groups(detector):
        for member in group.members:
            layer = detector.get_submodule(member.layer)
            assert not isinstance(layer, nn.Conv2d) or layer.groups == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(backbone_conv9=[1, 2]), "'backbone_conv9' is no layer"),
        (lambda c: c.update({"backbone.conv1": [0, 3]}), r"backbone\.conv1 has \[0, 3\]"),
        (lambda c: c.update({"backbone.conv1": [3, 3]}), "do not fit one another"),
        (lambda c: c.update({"proposals.head.cls_logits": [5, 8]}), "classes and boxes need"),
        (lambda c: c.update({"backbone.conv1": 3}), "a list of channel counts"),
    ],
)
def test_wrong_sizes_are_refused(zoo, tmp_path: Path, change, message: str):
    smaller, _ = remove_channels(zoo.make_detector("resnet18"), PruneConfig(0.5, "all", structured=True, scope="local"))
    assert smaller.layer_channels["proposals.head.conv.0.0"] == (8, 8)
    folder = save_checkpoint(tmp_path / "smaller", smaller)
    content = json.loads((folder / "config.json").read_text())
    change(content["layer_channels"])
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as error:
        load_checkpoint(folder)
    assert "config.json" in str(error.value)


def test_without_the_sizes_nothing_is_loaded(zoo, tmp_path: Path):
    smaller, _ = remove_channels(zoo.make_detector("resnet18"), HALF)
    folder = save_checkpoint(tmp_path / "smaller", smaller)
    content = json.loads((folder / "config.json").read_text())
    del content["layer_channels"]
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="of another shape"):
        load_checkpoint(folder)
