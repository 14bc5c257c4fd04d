from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.utils import prune as torch_prune

from tinydet.errors import InputError
from tinydet.prune.layers import output_layers, weighted_layers
from tinydet.prune.masks import PruneConfig, prune


def zeros_of(detector, block: str) -> tuple[int, int]:
    layers = weighted_layers(detector, block).values()
    return sum(int((layer.weight == 0).sum()) for layer in layers), sum(layer.weight.numel() for layer in layers)


@pytest.mark.parametrize("name", ["resnet18", "vgg", "mobilenet", "fpn", "ssd"])
@pytest.mark.parametrize("method", ["l1", "ln", "random"])
def test_each_block_reaches_its_share_to_the_entry(zoo, name: str, method: str):
    detector = zoo.make_detector(name)
    before = copy.deepcopy(detector.state_dict())
    pruned, report = prune(detector, PruneConfig(0.37, "all", method))
    for block in pruned.blocks():
        zeros, count = zeros_of(pruned, block)
        assert zeros == round(0.37 * count)
        assert zeros == sum(row.zeros for row in report.layers if row.block == block)
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())  # left as it was
    masked = {f"{layer}.weight" for block in pruned.blocks() for layer in weighted_layers(pruned, block)}
    for key, value in pruned.state_dict().items():
        if key not in masked:
            assert torch.equal(value, before[key])
        else:
            assert torch.equal(value[value != 0], before[key][value != 0])


def test_other_blocks_stay(zoo):
    detector = zoo.make_detector("resnet18")
    pruned, report = prune(detector, PruneConfig(0.5, ("heads", "backbone")))
    assert zeros_of(pruned, "proposals")[0] == 0
    assert report.pruned_blocks == ("backbone", "heads")
    assert report.sparsity == pytest.approx(0.5, abs=1e-4)
    assert 0 < report.total_sparsity < 0.5


def test_global_l1_is_that_of_pytorch(zoo):
    detector = zoo.make_detector("vgg")
    pruned, _ = prune(detector, PruneConfig(0.4))
    layers = list(weighted_layers(detector, "backbone").values())
    count = round(0.4 * sum(layer.weight.numel() for layer in layers))
    torch_prune.global_unstructured(
        [(layer, "weight") for layer in layers], pruning_method=torch_prune.L1Unstructured, amount=count
    )
    for ours, theirs in zip(weighted_layers(pruned, "backbone").values(), layers):
        assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize("n", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("dim", [0, 1])
def test_local_structured_is_that_of_pytorch(zoo, n: float, dim: int):
    detector = zoo.make_detector("vgg")
    pruned, _ = prune(detector, PruneConfig(0.4, method="ln", structured=True, n=n, dim=dim, scope="local"))
    for name, layer in weighted_layers(detector, "backbone").items():
        count = round(0.4 * layer.weight.shape[dim])
        if count:
            torch_prune.ln_structured(layer, "weight", amount=count, n=n, dim=dim)
        assert torch.equal(pruned.get_submodule(name).weight, layer.weight)


def test_local_unstructured_prunes_every_layer_alike(zoo):
    _, report = prune(zoo.make_detector("resnet18"), PruneConfig(0.3, "all", scope="local"))
    for row in report.layers:
        assert row.zeros == round(0.3 * row.weights)
        assert row.sparsity == row.zeros / row.weights


@pytest.mark.parametrize("method", ["l1", "random"])
def test_global_structured_counts_channels_of_the_block(zoo, method: str):
    detector = zoo.make_detector("resnet18")
    pruned, report = prune(detector, PruneConfig(0.5, "all", method, structured=True))
    outputs = output_layers(pruned)
    for block in pruned.blocks():
        rows = [row for row in report.layers if row.block == block and row.layer not in outputs]
        assert sum(row.zero_channels for row in rows) == round(0.5 * sum(row.channels for row in rows))
        assert all(row.zero_channels < row.channels for row in rows)
    assert all(row.zeros == 0 for row in report.layers if row.layer in outputs)


def test_pruning_again_goes_on_from_the_zeros(zoo):
    first, _ = prune(zoo.make_detector("resnet18"), PruneConfig(0.3))
    for method in ("l1", "random"):
        second, _ = prune(first, PruneConfig(0.6, method=method, seed=1))
        zeros, count = zeros_of(second, "backbone")
        assert zeros == round(0.6 * count)
        for ours, theirs in zip(first.backbone.parameters(), second.backbone.parameters()):
            assert (theirs[ours == 0] == 0).all()


def test_chance_depends_on_the_seed_alone(zoo):
    detector, config = zoo.make_detector("resnet18"), PruneConfig(0.5, method="random")
    torch.manual_seed(1)
    first = prune(detector, config)[0].backbone.conv1.weight
    torch.manual_seed(2)
    assert torch.equal(first, prune(detector, config)[0].backbone.conv1.weight)
    assert not torch.equal(first, prune(detector, replace(config, seed=1))[0].backbone.conv1.weight)


def test_what_cannot_be_is_refused(zoo):
    with pytest.raises(InputError, match=r"block 'proposals'.*backbone, heads"):
        prune(zoo.make_detector("ssd"), PruneConfig(0.5, ("proposals",)))
    with pytest.raises(InputError, match="the most is"):
        prune(zoo.make_detector("resnet18"), PruneConfig(0.999, structured=True))
    with pytest.raises(ValueError, match=r"sparsity 1\.5"):
        PruneConfig(1.5)


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_nothing_and_everything(zoo, sparsity: float):
    _, report = prune(zoo.make_detector("vgg"), PruneConfig(sparsity, "all"))
    assert report.total_sparsity == sparsity
