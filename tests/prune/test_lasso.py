from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso, lars_path_gram
from torch.nn import functional as F

from tinydet.backbones import VGGConfig
from tinydet.detectors import RFCNConfig, build_detector
from tinydet.detectors.layer_channels import channels_of_layer
from tinydet.errors import InputError
from tinydet.prune.channels import channel_groups
from tinydet.prune.lasso import LassoConfig, least_squares, prune_by_lasso, select_channels
from tinydet.prune.masks import PruneConfig
from tinydet.prune.remove import remove_channels
from tinydet.prune.samples import Recorder
from tinydet.training import load_checkpoint, save_checkpoint


def problem(rows: int = 400, channels: int = 12) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    contributions = random.normal(size=(rows, channels)) * random.uniform(0.2, 3, channels)
    return contributions, contributions.sum(axis=1) + 0.1 * random.normal(size=rows)


@pytest.mark.parametrize("count", [1, 4, 9, 12])
def test_the_chosen_channels_are_those_of_coordinate_descent(count: int):
    z, y = problem()
    chosen = select_channels(z.T @ z, z.T @ y, len(z), count).numpy()
    assert chosen.sum() == count
    if count == 12:
        return
    alphas, _, path = lars_path_gram(z.T @ y, z.T @ z, n_samples=len(z), method="lasso")
    sizes = (path != 0).sum(axis=0)
    knot = int(np.flatnonzero(sizes == count)[0])
    inner = (alphas[knot] + alphas[knot + 1]) / 2  # after the knot all of its channels, and one more, are in
    descent = Lasso(alpha=inner, fit_intercept=False, tol=1e-10, max_iter=100_000).fit(z, y)
    assert set(np.flatnonzero(chosen)) <= set(np.flatnonzero(descent.coef_))
    assert (descent.coef_ != 0).sum() <= count + 1


def test_channels_that_say_nothing_are_the_last_to_be_kept():
    z, y = problem()
    z[:, [2, 5]] = 0
    chosen = select_channels(z.T @ z, z.T @ y, len(z), 10)
    assert not chosen[2]
    assert not chosen[5]
    assert select_channels(z.T @ z, z.T @ y, len(z), 11).sum() == 11


def test_the_weights_are_those_of_numpy_in_float64():
    torch.manual_seed(0)
    inputs, outputs = torch.randn(300, 27), torch.randn(300, 5)
    expected = np.linalg.lstsq(inputs.double().numpy(), outputs.double().numpy(), rcond=None)[0].T
    assert np.allclose(least_squares(inputs, outputs).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vgg", "backbone.features.17"),
        ("resnet18", "backbone.conv1"),
        ("resnet18", "backbone.layer2.0.conv1"),
        ("resnet_rfcn", "heads.trunk.layer4.1.conv1"),
        ("vgg_regions", "heads.trunk.fc6"),
        ("fpn", "proposals.head.conv.0.0"),
        ("ssd", "heads.predictors.class_scores.1.0"),
    ],
)
def test_samples_are_what_layers_read_and_give(zoo, name: str, layer: str):
    detector = zoo.make_detector(name)
    recorder = Recorder(detector, [zoo.make_batch(detector), zoo.make_batch(detector, images=1)], 40, seed=0)
    samples = recorder.samples(detector, layer)
    weight = detector.get_submodule(layer).weight.detach().flatten(1)
    assert samples.inputs.shape[1] == weight.shape[1]
    assert torch.allclose(F.linear(samples.inputs, weight), samples.outputs, atol=1e-4, rtol=1e-4)
    assert samples.error(weight) < 1e-5


@pytest.mark.parametrize("name", ["vgg", "vgg_regions", "resnet18", "mobilenet", "fpn", "ssd"])
def test_fitting_gives_what_least_squares_gives_and_beats_plain_removal(zoo, name: str):
    detector = zoo.make_detector(name)
    batches = [zoo.make_batch(detector, (64, 96))]
    blocks = ("backbone",)
    smaller, report = prune_by_lasso(detector, LassoConfig(0.5, blocks, samples=300), batches)
    for row in report.groups:
        wanted = max(1, row.before - round(0.5 * row.before)) if row.block == "backbone" else row.before
        assert row.after == wanted
    assert report.fits
    assert all(fit.fitted_error <= fit.selected_error + 1e-6 for fit in report.fits)
    assert sum(fit.fitted_error for fit in report.fits) < 0.8 * sum(fit.selected_error for fit in report.fits)
    plain, _ = remove_channels(detector, PruneConfig(0.5, blocks, structured=True, scope="local"))
    with torch.no_grad():
        wanted_dense, ours, theirs = (d(batches[0]).dense.logits for d in (detector, smaller, plain))
    assert (ours - wanted_dense).square().mean() < (theirs - wanted_dense).square().mean()


@pytest.mark.parametrize("name", ["vgg", "resnet18"])
def test_the_error_is_that_of_solving_in_float64(zoo, name: str):
    """The last fit of a run, solved again by NumPy from the same samples."""
    detector = zoo.make_detector(name)
    batches = [zoo.make_batch(detector, (64, 96))]
    smaller, report = prune_by_lasso(detector, LassoConfig(0.5, ("backbone",), samples=300), batches)
    recorder = Recorder(detector, batches, 300, 0)
    for group in channel_groups(detector):
        if group.block == "backbone":
            recorder.removed(group, _gone(detector, smaller, group))
    last = report.fits[-1]
    samples = recorder.samples(smaller, last.layer)
    inputs, outputs = samples.inputs.double().numpy(), samples.outputs.double().numpy()
    left = outputs - inputs @ np.linalg.lstsq(inputs, outputs, rcond=None)[0]
    error = np.sqrt((left**2).sum() / (outputs**2).sum())
    assert last.fitted_error == pytest.approx(error, rel=1e-4, abs=1e-6)
    assert samples.error(smaller.get_submodule(last.layer).weight.flatten(1)) == pytest.approx(
        error, rel=1e-3, abs=1e-5
    )


def _gone(detector, smaller, group) -> torch.Tensor:
    """Which channels went, from the biases that were not fitted."""
    member = group.outputs()[-1]
    before, after = (d.get_submodule(member.layer).bias for d in (detector, smaller))
    return ~torch.isin(before, after)


def test_a_redundant_channel_goes_without_any_loss(zoo):
    detector = zoo.make_detector("vgg_plain")
    with torch.no_grad():
        first, second = detector.backbone.features[5], detector.backbone.features[7]
        first.weight[2:] = 2 * first.weight[:2]  # two channels that say what two others do
        first.bias[2:] = 2 * first.bias[:2]
        second.weight[:, :2] += 0.1
    batch = zoo.make_batch(detector)
    wanted = {group.name: group for group in channel_groups(detector)}
    assert wanted["backbone.features.5"].channels == 4
    smaller, report = prune_by_lasso(detector, LassoConfig(0.5, ("backbone",), samples=400), [batch])
    fit = next(fit for fit in report.fits if fit.layer == "backbone.features.7")
    assert smaller.backbone.features[5].out_channels == 2
    assert fit.fitted_error <= fit.selected_error


def test_a_vgg_comes_down_to_the_sizes_of_a_narrower_one(tmp_path):
    config = RFCNConfig(("face",), VGGConfig(4))
    small = replace(config, preprocessing=replace(config.preprocessing, shorter_side=64, longer_side=96))
    torch.manual_seed(0)
    detector = build_detector(small).eval()
    from tiny_detectors import make_batch

    done = []
    smaller, _ = prune_by_lasso(
        detector, LassoConfig(to_width=32, samples=200), [make_batch(detector)], lambda at, of: done.append((at, of))
    )
    assert done[-1][0] == done[-1][1]
    target = build_detector(replace(small, backbone=VGGConfig(32)))
    shapes = {name: tuple(value.shape) for name, value in target.state_dict().items()}
    assert {name: tuple(value.shape) for name, value in smaller.state_dict().items()} == shapes
    assert smaller.feature_channels == target.feature_channels
    save_checkpoint(tmp_path / "smaller", smaller)
    loaded, _ = load_checkpoint(tmp_path / "smaller")
    assert channels_of_layer(loaded.backbone.features[0]) == (2, 3)
    with pytest.raises(InputError, match="only takes away"):
        prune_by_lasso(smaller, LassoConfig(to_width=2, samples=200), [make_batch(detector)])
