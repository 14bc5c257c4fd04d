"""The papers' courses of the learning rate, and what weight decay touches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tinydet.training.schedule import (
    R_FCN_SCHEDULE,
    REPRODUCTION_SCHEDULE,
    RESNET_SCHEDULE,
    Schedule,
    parameter_groups,
)


@pytest.mark.parametrize(
    ("schedule", "iterations", "drop"),
    [(R_FCN_SCHEDULE, 80_000, 50_000), (RESNET_SCHEDULE, 40_000, 30_000), (REPRODUCTION_SCHEDULE, 110_000, None)],
)
def test_the_papers_schedules(schedule: Schedule, iterations: int, drop: int | None) -> None:
    assert schedule.iterations == iterations
    assert (schedule.momentum, schedule.weight_decay) == (0.9, 0.0005)
    assert schedule.learning_rate_at(0) == 0.001
    if drop is None:
        assert schedule.learning_rate_at(iterations - 1) == 0.001
    else:
        assert schedule.learning_rate_at(drop - 1) == 0.001
        assert schedule.learning_rate_at(drop) == pytest.approx(0.0001)
        assert schedule.learning_rate_at(iterations - 1) == pytest.approx(0.0001)


def test_one_number_scales_the_whole_course() -> None:
    scaled = Schedule(80_000, milestones=(0.625,), warmup_iterations=500).scaled(0.01)
    assert (scaled.iterations, scaled.warmup_iterations) == (800, 5)
    assert scaled.learning_rate_at(499) == 0.001
    assert scaled.learning_rate_at(500) == pytest.approx(0.0001)
    assert Schedule(10).scaled(0.001).iterations == 1


def test_the_rate_agrees_with_torch() -> None:
    """Step for step against LinearLR and MultiStepLR chained."""
    schedule = Schedule(40, 0.1, milestones=(0.5, 0.75), gamma=0.2, warmup_iterations=8)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    chained = torch.optim.lr_scheduler.ChainedScheduler(
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1 / 8, 1.0, 7),
            torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 30], 0.2),
        ]
    )
    for step in range(40):
        assert schedule.learning_rate_at(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        chained.step()


def test_decay_spares_vectors_where_asked() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2).requires_grad_(False))
    everything = parameter_groups(module.named_parameters(), Schedule(1))
    assert [(len(group["params"]), group["weight_decay"]) for group in everything] == [(4, 0.0005)]
    decayed, spared = parameter_groups(module.named_parameters(), Schedule(1, decay_all=False))
    assert [tuple(weight.shape) for weight in decayed["params"]] == [(4, 3, 3, 3)]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.0005, 0.0)
    assert len(spared["params"]) == 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"iterations": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"momentum": 1.0},
        {"milestones": (0.9, 0.5)},
        {"milestones": (1.0,)},
        {"clip_norm": 0.0},
        {"ema_decay": 1.0},
        {"warmup_iterations": -1},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        Schedule(**{"iterations": 10, **wrong})
    with pytest.raises(ValueError, match="budget"):
        Schedule(10).scaled(0)
