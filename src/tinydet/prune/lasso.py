"""Channel pruning by LASSO and least squares (He et al. 2017), layer by layer in the network's order.

For the channels that some layers read: which of them, weighted by beta, give these layers' outputs in the unpruned
network best, with most of beta zero (Eq. 1 to 3, solved along the Lasso's path until as many are left as asked for)?
The others are taken out, and the readers' weights become those that give the outputs best from what is left (Eq. 4).
Inputs are the pruned network's and outputs the unpruned one's, on sampled positions, so that errors do not add up. At
the end of a residual branch the output to be given includes what the shortcut has lost (section 3.2).

Two things go beyond the paper: channels that several layers read (a stream of residual blocks; a map that the proposal
network and the heads share) are chosen for all of them at once; and Eq. 1's first step alone is done for beta, with the
weights as they are, as in the authors' own experiments.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tinydet.data.batch import Batch
from tinydet.detectors import build_detector
from tinydet.detectors.layer_channels import channels_of_layer
from tinydet.errors import InputError
from tinydet.prune.channels import ChannelGroup, channel_groups
from tinydet.prune.layers import Blocks, chosen_blocks
from tinydet.prune.remove import RemovalReport, removal_report, without_channels
from tinydet.prune.samples import Recorder, Samples

Progress = Callable[[int, int], None]
_MOST_ENTRIES = 1 << 24  # of the contributions that are held at a time


@dataclass(frozen=True)
class LassoConfig:
    """Attributes:
    sparsity: share of each group's channels that goes; not used with `to_width`.
    to_width: prune to the sizes of the same network at this width divisor, in all blocks (VGG-1-4 to 32).
    samples: positions (of a fully connected layer: regions) that a layer is fitted on, over all batches; more where it
        has so many weights that they would fit anything.
    """

    sparsity: float = 0.5
    blocks: Blocks = "all"
    to_width: float | None = None
    samples: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1 or self.samples < 1 or (self.to_width is not None and self.to_width <= 0):
            raise ValueError(f"sparsity {self.sparsity}, width {self.to_width}, {self.samples} samples")


@dataclass(frozen=True)
class LayerFit:
    """Attributes:
    selected_error, fitted_error: root of the squared error of a layer's outputs on the samples over that of the outputs
        themselves, when channels have gone and after its weights were fitted.
    """

    layer: str
    selected_error: float
    fitted_error: float


@dataclass(frozen=True)
class LassoReport(RemovalReport):
    fits: tuple[LayerFit, ...] = ()


def prune_by_lasso(
    detector: Any, config: LassoConfig, batches: Sequence[Batch], progress: Progress | None = None
) -> tuple[Any, LassoReport]:
    """A copy with fewer channels, whose layers give nearly what they gave.

    Args:
        batches: images alone are looked at, not their labels.
        progress: called with the groups done and their number.

    Raises:
        InputError: the detector has no such block, or the width asked for is wider than the detector somewhere.
    """
    original = copy.deepcopy(detector).eval()
    groups = channel_groups(original)
    wanted = _wanted_channels(original, groups, config)
    recorder = Recorder(original, batches, config.samples, config.seed)
    smaller, fits = copy.deepcopy(original), []
    for place, group in enumerate(group for group in groups if group.name in wanted):
        name, count = group.name, wanted[group.name]
        if count < group.channels:  # a layer reads one group: what others lost changes nothing in this one
            kept = select_channels(*_normal_equations(smaller, group, recorder), count)
            smaller = without_channels(smaller, (group,), {name: ~kept})
            recorder.removed(group, ~kept)
            for member in group.inputs():
                fits.append(_fit(smaller, member.layer, recorder))
        if progress:
            progress(place + 1, len(wanted))
    report = removal_report(config, detector, smaller, groups)
    smaller.train(detector.training)
    return smaller, LassoReport(**vars(report), fits=tuple(fits))


def select_channels(gram: NDArray[np.float64], moments: NDArray[np.float64], rows: int, count: int) -> Tensor:
    """`[C]` true for the `count` channels that the Lasso's path has when it first has so many.

    Args:
        gram, moments: `[C, C]` and `[C]`, Z^T Z and Z^T y of the channels' contributions Z and the outputs y.
        rows: of Z.
    """
    from sklearn.linear_model import lars_path_gram

    alive = np.flatnonzero(np.diag(gram) > 1e-12 * max(float(np.diag(gram).max()), 1e-300))
    chosen = np.zeros(len(gram), dtype=bool)
    if len(alive) > count:
        _, _, path = lars_path_gram(moments[alive], gram[np.ix_(alive, alive)], n_samples=rows, method="lasso")
        sizes = (path != 0).sum(axis=0)
        exact = np.flatnonzero(sizes == count)
        if exact.size:
            chosen[alive[path[:, exact[0]] != 0]] = True
        else:  # the path jumped over this number, as it may where channels say the same
            knot = path[:, int(np.flatnonzero(sizes >= count)[0])] if (sizes >= count).any() else path[:, -1]
            strength = np.abs(knot) * np.sqrt(np.diag(gram)[alive])
            chosen[alive[np.argsort(-strength, kind="stable")[:count]]] = True
    else:
        chosen[alive] = True
        chosen[np.flatnonzero(~chosen)[: count - len(alive)]] = True
    return torch.from_numpy(chosen)


def least_squares(inputs: Tensor, outputs: Tensor) -> Tensor:
    """`[O, K]` float64 weights W of least |outputs - inputs W^T|, `[N, K]` and `[N, O]`; the smallest such weights."""
    return torch.linalg.lstsq(inputs.double(), outputs.double(), driver="gelsd").solution.T


def _wanted_channels(detector: Any, groups: tuple[ChannelGroup, ...], config: LassoConfig) -> dict[str, int]:
    if config.to_width is None:
        blocks = chosen_blocks(detector, config.blocks)
        return {
            group.name: max(1, group.channels - round(config.sparsity * group.channels))
            for group in groups
            if group.block in blocks
        }
    target = build_detector(
        replace(detector.config, backbone=replace(detector.config.backbone, width_divisor=config.to_width))
    )
    wanted = {}
    for group in groups:
        there = channels_of_layer(target.get_submodule(group.name))[0]
        if there > group.channels:
            raise InputError(
                f"width {config.to_width:g}: {group.name} would have {there} channels, but has {group.channels}; "
                "pruning only takes away"
            )
        wanted[group.name] = there
    return wanted


def _normal_equations(
    smaller: Any, group: ChannelGroup, recorder: Recorder
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Z^T Z, Z^T y and the rows of Z, over all layers that read the group; the outputs of each weigh the same."""
    gram, moments = (
        torch.zeros(group.channels, group.channels, dtype=torch.float64),
        torch.zeros(group.channels).double(),
    )
    rows = 0
    for member in group.inputs():
        layer = smaller.get_submodule(member.layer)
        samples = recorder.samples(smaller, member.layer)
        columns = _columns(layer, member.entries)  # [C, k]
        weight = layer.weight.detach().flatten(1).double()
        size = samples.outputs.double().square().sum().clamp_min(1e-30)
        several = max(1, _MOST_ENTRIES // (group.channels * len(weight)))
        for inputs, outputs in zip(samples.inputs.double().split(several), samples.outputs.double().split(several)):
            # [C, N * O]: what each channel contributes to the outputs
            contributions = torch.stack([(inputs[:, at] @ weight[:, at].T).flatten() for at in columns])
            gram += contributions @ contributions.T / size
            moments += contributions @ outputs.flatten() / size
            rows += contributions.shape[1]
    return gram.numpy(), moments.numpy(), rows


def _columns(layer: nn.Module, entries: Tensor) -> Tensor:
    """`[C, k]` columns of a layer's flattened weight that read each channel."""
    cells = layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
    return (entries[:, :, None] * cells + torch.arange(cells)).flatten(1)


@torch.no_grad()
def _fit(smaller: Any, name: str, recorder: Recorder) -> LayerFit:
    layer = smaller.get_submodule(name)
    samples: Samples = recorder.samples(smaller, name)
    before = samples.error(layer.weight.flatten(1))
    fitted = least_squares(samples.inputs, samples.outputs)
    layer.weight.copy_(fitted.reshape(layer.weight.shape))
    return LayerFit(name, before, samples.error(fitted))
