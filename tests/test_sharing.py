from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from tinydet.backbones import ResNetConfig
from tinydet.data import AugmentConfig, make_loader
from tinydet.data.batch import Batch, Target
from tinydet.detectors import FasterRCNNConfig, build_detector
from tinydet.packed import PackedFile, pack
from tinydet.preprocessing import Preprocessing
from tinydet.prune.layers import weighted_layers
from tinydet.prune.masks import PruneConfig, prune
from tinydet.records import Annotations, Sample
from tinydet.sharing import ShareConfig, SharedStep, k_means, share, shared_values
from tinydet.training import DetectionStep, Schedule, load_checkpoint, train


def tiny():
    torch.manual_seed(0)
    return build_detector(FasterRCNNConfig(("a", "b"), ResNetConfig(18, 16), Preprocessing(64, 96)))


def values_of(detector) -> dict[str, np.ndarray]:
    return {
        name: np.unique(layer.weight.detach().numpy()[layer.weight.detach().numpy() != 0])
        for block in detector.blocks()
        for name, layer in weighted_layers(detector, block).items()
    }


@pytest.mark.parametrize("count", [4, 16, 64])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_centres_are_those_of_scikit_learn(count: int, seed: int):
    values = np.random.default_rng(seed).normal(size=3000)
    start = np.linspace(values.min(), values.max(), count)[:, None]
    theirs = KMeans(count, init=start, n_init=1, max_iter=1000, tol=0, algorithm="lloyd").fit(values[:, None])
    ours = k_means(values, count)
    if count == 4:
        assert np.allclose(ours, np.sort(theirs.cluster_centers_[:, 0]), atol=1e-9)
    assert len(ours) == count
    nearest = ours[np.abs(values[:, None] - ours).argmin(axis=1)]
    assert ((values - nearest) ** 2).sum() < 1.05 * theirs.inertia_


def test_each_centre_is_the_mean_of_the_values_nearest_to_it():
    values = np.random.default_rng(0).laplace(size=5000)
    centres = k_means(values, 32)
    nearest = np.abs(values[:, None] - centres).argmin(axis=1)
    assert np.allclose(centres, [values[nearest == i].mean() for i in range(len(centres))], atol=1e-12)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0], [0.0, 2.0, -1.0, 2.0]])
def test_few_values_stay_as_they_are(weights: list[float]):
    array = np.array(weights, np.float32)
    assert np.array_equal(shared_values(array, 4), array)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_layers_have_few_values_and_zeros_stay(bits: int):
    detector, _ = prune(tiny(), PruneConfig(0.4, "all"))
    before = copy.deepcopy(detector.state_dict())
    shared, report = share(detector, ShareConfig(bits))
    assert all(len(values) <= 2**bits for values in values_of(shared).values())
    for row in report.layers:
        weight = shared.get_submodule(row.layer).weight
        assert torch.equal(weight == 0, before[f"{row.layer}.weight"] == 0)
        assert row.zeros == int((weight == 0).sum())
        assert row.values == len(values_of(shared)[row.layer])
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())
    for key, value in shared.state_dict().items():
        if not any(key == f"{row.layer}.weight" for row in report.layers):
            assert torch.equal(value, before[key])


def test_more_bits_err_less_and_blocks_are_kept_apart():
    detector = tiny()
    errors = [max(row.error for row in share(detector, ShareConfig(bits))[1].layers) for bits in (2, 4, 6)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    shared, report = share(detector, ShareConfig(3, ("heads",)))
    assert {row.block for row in report.layers} == {"heads"}
    assert torch.equal(shared.backbone.conv1.weight, detector.backbone.conv1.weight)


def test_bits_out_of_range_are_refused():
    with pytest.raises(ValueError, match="1 bits: expected 2 to 8"):
        ShareConfig(1)


def packed_bytes(detector) -> int:
    return len(pack(PackedFile(tensors={key: value.numpy() for key, value in detector.state_dict().items()})))


def test_packing_finds_the_codebooks():
    detector = tiny()
    sparse, _ = prune(detector, PruneConfig(0.5, "all"))
    dense_bytes, four_bits = packed_bytes(detector), packed_bytes(share(detector, ShareConfig(4))[0])
    weights = sum(row.weights for row in share(detector, ShareConfig(4))[1].layers)
    assert dense_bytes > 3 * weights
    assert four_bits < 0.25 * dense_bytes
    assert packed_bytes(share(sparse, ShareConfig(4))[0]) < four_bits
    assert packed_bytes(share(sparse, ShareConfig(4))[0]) < 0.4 * packed_bytes(sparse)


def a_batch() -> Batch:
    target = Target(torch.tensor([[10.0, 8, 60, 50], [30, 5, 60, 60]]), torch.tensor([0, 1]), torch.zeros(0, 4))
    images = 255 * torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    return Batch(images, ((64, 96),), ((64, 96),), (target,), ("a",), ("a",))


def test_a_value_learns_by_the_sum_of_its_gradients():
    shared, _ = share(prune(tiny(), PruneConfig(0.3, "all"))[0], ShareConfig(3))
    plain = copy.deepcopy(shared)
    torch.manual_seed(1)
    expected = DetectionStep(plain).train()(a_batch())
    sum(expected.values()).backward()
    step = SharedStep(DetectionStep(shared)).train()
    torch.manual_seed(1)
    losses = step(a_batch())
    sum(losses.values()).backward()
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {name: loss.item() for name, loss in expected.items()}, rel=1e-6
    )
    for name, codebook in zip(step.layers, step.codebooks):
        weight = plain.get_parameter(name)
        for value, gradient in zip(codebook.values, codebook.values.grad):
            summed = weight.grad[weight == value].double().sum()
            assert float(gradient) == pytest.approx(float(summed), rel=1e-3, abs=1e-5)
        assert shared.get_parameter(name).grad is None
    assert torch.allclose(shared.backbone.bn1.bias.grad, plain.backbone.bn1.bias.grad, atol=1e-6)


def run(step, out: Path, iterations: int, **options):
    random = np.random.default_rng(0)
    boxes = Annotations(np.array([[10.0, 10, 50, 50]]), [0])
    samples = [Sample("i", random.integers(0, 256, (64, 96, 3), dtype=np.uint8), (64, 96), boxes)]
    schedule = Schedule(iterations, 0.001, clip_norm=10.0)
    loader = make_loader(samples, step.detector.config.preprocessing, 1, AugmentConfig(0.0), seed=0, workers=0)
    return train(step, loader, schedule, out, device="cpu", quiet=True, **options)


def test_training_keeps_the_values_few_and_the_zeros_zero(tmp_path: Path):
    shared, _ = share(prune(tiny(), PruneConfig(0.5, "all"))[0], ShareConfig(3))
    before, zeros = values_of(shared), {k: v == 0 for k, v in shared.state_dict().items()}
    step = SharedStep(DetectionStep(shared))
    result = run(step, tmp_path, 3)
    loaded, _ = load_checkpoint(result.checkpoint)
    after = values_of(loaded)
    assert all(len(after[name]) <= len(before[name]) for name in before)
    assert not np.array_equal(before["backbone.conv1"], after["backbone.conv1"])
    for name in before:
        assert torch.equal(loaded.get_submodule(name).weight == 0, zeros[f"{name}.weight"])
    step.release()
    assert all(parameter.requires_grad for parameter in shared.parameters())


def test_an_interrupted_run_ends_with_the_same_values(tmp_path: Path):
    shared, _ = share(tiny(), ShareConfig(3))
    whole, again = copy.deepcopy(shared), copy.deepcopy(shared)
    run(SharedStep(DetectionStep(whole)), tmp_path / "whole", 4)

    def stop(detector):
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(SharedStep(DetectionStep(shared)), tmp_path / "cut", 4, checkpoint_every=2, validate=stop, validate_every=3)
    run(SharedStep(DetectionStep(again)), tmp_path / "cut", 4)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_detector_that_is_not_shared_is_refused():
    detector = tiny()
    with torch.no_grad():
        for layer in (*weighted_layers(detector, "backbone").values(), *weighted_layers(detector, "heads").values()):
            layer.weight.normal_()
        for layer in weighted_layers(detector, "proposals").values():
            layer.weight.normal_()
    with pytest.raises(ValueError, match="share them first"):
        SharedStep(DetectionStep(detector))
