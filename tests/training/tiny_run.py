"""A detector too small to be useful and a run of it: loaded by the tests here, and started by them as a program."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tinydet.data import AugmentConfig, Batch, Loader, Target, make_loader
from tinydet.detectors.outputs import DetectedTensors
from tinydet.preprocessing import Preprocessing
from tinydet.processes import mean_over_processes
from tinydet.records import Annotations, Sample
from tinydet.training import DetectionStep, Schedule, TrainingResult, train


@dataclass(frozen=True)
class TinyConfig:
    classes: tuple[str, ...] = ("thing",)
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(shorter_side=16, longer_side=32))
    dropout: float = 0.5


class TinyDetector(nn.Module):
    """Guesses one box an image, as fractions of its size."""

    def __init__(self, config: TinyConfig = TinyConfig(), step_seconds: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config, self.step_seconds = config, step_seconds
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(config.dropout), nn.Conv2d(6, 5, 3, 2)
        )
        if not config.dropout:
            self.layers[1] = nn.Identity()  # its statistics would differ between one and two processes

    def forward(self, batch: Batch) -> Tensor:
        time.sleep(self.step_seconds)
        return self.layers(batch.images / 128 - 1).mean(dim=(2, 3)).sigmoid()  # [B, 5]

    def criterion(self, outputs: Tensor, targets: tuple[Target, ...]) -> dict[str, Tensor]:
        per_image = torch.stack(
            [(row[4] - float(len(target.labels) > 1)) ** 2 for row, target in zip(outputs, targets)]
        )
        count = mean_over_processes(torch.tensor(float(sum(len(target.labels) for target in targets))))
        boxes = sum(((row[:4] - target.boxes_xyxy / 16) ** 2).sum() for row, target in zip(outputs, targets))
        return {"score": per_image.mean(), "box": boxes / count}

    @torch.no_grad()
    def postprocess(self, outputs: Tensor) -> list[DetectedTensors]:
        low, high = outputs[:, :2] * 8, 8 + outputs[:, 2:4] * 8
        boxes = torch.cat([low, high], dim=1)[:, None]  # [B, 1, 4]
        return [DetectedTensors(box, row[4:], torch.zeros(1, dtype=torch.int64)) for box, row in zip(boxes, outputs)]


def tiny_samples(count: int = 7, sizes: tuple[tuple[int, int], ...] = ((16, 20), (24, 16), (32, 40))) -> list[Sample]:
    random = np.random.default_rng(0)
    samples = []
    for index in range(count):
        height, width = sizes[index % len(sizes)]
        low = random.uniform(0, 6, (index % 3, 2))
        boxes = np.concatenate([low, low + random.uniform(2, 8, low.shape)], axis=1)
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        annotations = Annotations(boxes, np.zeros(len(boxes)))
        samples.append(Sample(f"image{index}", pixels, (height, width), annotations))
    return samples


def tiny_loader(batch_size: int = 4, workers: int = 0) -> Loader:
    augment = AugmentConfig(0.5, (12, 16))
    return make_loader(tiny_samples(), TinyConfig().preprocessing, batch_size, augment, seed=3, workers=workers)


def tiny_schedule(iterations: int, **changes: Any) -> Schedule:
    settings: dict[str, Any] = {"learning_rate": 0.05, "milestones": (0.5,), "warmup_iterations": 3, "batch_size": 4}
    return Schedule(iterations, **{**settings, **changes})


def tiny_train(
    out_dir: Path, iterations: int, *, dropout: float = 0.5, seconds: float = 0.0, **options: Any
) -> TrainingResult:
    """A run on the CPU; `options` are of `train` or, by their names, of the schedule."""
    names = Schedule.__dataclass_fields__.keys() & options.keys()
    schedule = tiny_schedule(iterations, **{name: options.pop(name) for name in names})
    step = options.pop("step", None) or DetectionStep(TinyDetector(TinyConfig(dropout=dropout), seconds))
    return train(step, tiny_loader(schedule.batch_size), schedule, out_dir, device="cpu", quiet=True, **options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--iterations", type=int, required=True)
    parser.add_argument("--checkpoint-every", type=int)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--ema-decay", type=float)
    given = vars(parser.parse_args())
    torch.set_num_threads(1)
    tiny_train(given.pop("out_dir"), given.pop("iterations"), **given)
