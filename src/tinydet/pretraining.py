"""Pretraining: a backbone of any width learns to classify whole images before it detects (Wei et al. 2018, Table 7).

The classifier is what a detector applies to a region, applied to the whole image: the backbone's map, the trunk
(layer4, fc6 and fc7, ...), and a linear layer. Its weights therefore fit a detector's, under their published names.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from tinydet.backbones import BackboneConfig, ResNetConfig, VGGConfig, build_backbone, build_region_trunk
from tinydet.backbones.pretrained import published_tensors
from tinydet.backbones.weight_files import METADATA_KEY
from tinydet.config import to_plain
from tinydet.data.batch import Batch
from tinydet.data.loader import Rendered, collate
from tinydet.data.transforms import View, resized_pixels
from tinydet.detectors.pixels import normalized
from tinydet.errors import InputError
from tinydet.files import replacing
from tinydet.preprocessing import Preprocessing
from tinydet.processes import process_place
from tinydet.records import Sample
from tinydet.training.validation import Validation, evaluating

log = logging.getLogger("tinydet")


@dataclass(frozen=True)
class ClassifierConfig:
    """A backbone that names what an image shows.

    Attributes:
        preprocessing: of a fixed size, which every image is resized to.
        region_size: cells along each side of what a VGG's fc6 takes; the detector's `regions.output_size`.
    """

    classes: tuple[str, ...]
    backbone: BackboneConfig = field(default_factory=ResNetConfig)
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(fixed_size_hw=(224, 224)))
    region_size: int = 7

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or self.preprocessing.fixed_size_hw is None:
            raise ValueError(f"{len(self.classes)} classes (at least 2) at size {self.preprocessing.fixed_size_hw}")


class ClassifierHeads(nn.Module):
    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.trunk = build_region_trunk(config.backbone, config.region_size)
        self.class_scores = nn.Linear(self.trunk.out_channels, len(config.classes))
        self.pooled_size = config.region_size if isinstance(config.backbone, VGGConfig) else None
        nn.init.normal_(self.class_scores.weight, std=0.01)
        nn.init.zeros_(self.class_scores.bias)

    def forward(self, features: Tensor) -> Tensor:
        """`[B, C, H, W]` to logits `[B, classes]`."""
        if self.pooled_size is not None:  # fully connected layers take as many cells as a region has
            features = F.adaptive_max_pool2d(features, self.pooled_size)
        return self.class_scores(self.trunk(features))


class Classifier(nn.Module):
    """A network from whole images to class scores, its parts named as a detector's are."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.preprocessing.channel_count)
        self.heads = ClassifierHeads(config)

    def forward(self, batch: Batch) -> Tensor:
        """Logits `[B, classes]`."""
        return self.heads(self.backbone(normalized(batch, self.config.preprocessing))[-1])


@dataclass(frozen=True)
class ClassificationConfig:
    """How a classifier learns.

    Attributes:
        least_crop: each image is seen through a window at a random place, whose sides are this share of the image's or
            more; 1 shows all of it.
        label_smoothing: share of the truth that is spread over all classes (Szegedy et al. 2016, section 7).
    """

    least_crop: float = 0.6
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.least_crop <= 1 or not 0 <= self.label_smoothing < 1:
            raise ValueError(f"windows of {self.least_crop} and more, label smoothing {self.label_smoothing}")


class ClassificationStep(nn.Module):
    """Cross-entropy of each image's one label: what the training loop takes to pretrain a backbone."""

    def __init__(self, classifier: Classifier, config: ClassificationConfig | None = None) -> None:
        super().__init__()
        self.detector = classifier  # the loop's name for what is made
        self.config = config or ClassificationConfig()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if self.training and self.config.least_crop < 1:
            batch = random_windows(batch, self.config.least_crop)
        logits = self.detector(batch)
        labels = torch.stack([target.labels[0] for target in batch.targets])
        return {"class": F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)}


def random_windows(batch: Batch, least_side: float) -> Batch:
    """Each image's random window, enlarged to the whole; drawn from torch's random numbers."""
    count = len(batch)
    side = torch.empty(count, 1).uniform_(least_side, 1)
    shift = (torch.rand(count, 2) * 2 - 1) * (1 - side)  # in units of half the image
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = side[:, 0], side[:, 0], shift
    grid = F.affine_grid(affine, list(batch.images.shape), align_corners=False).to(batch.images)
    return replace(batch, images=F.grid_sample(batch.images, grid, padding_mode="border", align_corners=False))


class ValidateAccuracy:
    """Measures the share of images whose best class is the right one; with several processes each takes its share.

    Attributes:
        skipped: why, by image id, for each image that could not be read so far.
    """

    def __init__(self, samples: Sequence[Sample], batch_size: int = 64) -> None:
        if not samples:
            raise InputError("there is no image to validate on")
        self.samples, self.batch_size = tuple(samples), batch_size
        self.skipped: dict[str, str] = {}

    def __call__(self, classifier: Any) -> Validation:
        rank, world_size = process_place()
        own = self.samples[rank::world_size]
        counts = torch.zeros(3, dtype=torch.float64)  # right, right among the best five, seen
        with evaluating(classifier):
            for start in range(0, len(own), self.batch_size):
                counts += self._counts(classifier, own[start : start + self.batch_size])
        if world_size > 1:
            device = next(classifier.parameters()).device
            counts = counts.to(device)
            torch.distributed.all_reduce(counts)
        right, among_five, seen = counts.tolist()
        if not seen:
            raise InputError(f"none of the {len(self.samples)} validation images can be read")
        metrics = {"accuracy": right / seen, "images": int(seen)}
        if len(classifier.config.classes) > 5:
            metrics["accuracy_top5"] = among_five / seen
        return Validation(right / seen, metrics)

    def _counts(self, classifier: Any, samples: Sequence[Sample]) -> Tensor:
        rendered, labels = [], []
        for sample in samples:
            try:
                pixels, original_hw = resized_pixels(sample, classifier.config.preprocessing, View())
            except InputError as error:
                if sample.image_id not in self.skipped:
                    log.warning("image %r is left out of the validation: %s", sample.image_id, error)
                self.skipped[sample.image_id] = str(error)
                continue
            rendered.append(Rendered(sample.image_id, sample.image_id, pixels, original_hw, None))
            labels.append(int(sample.annotations.labels[0]))
        if not rendered:
            return torch.zeros(3, dtype=torch.float64)
        logits = classifier(collate(rendered).to(next(classifier.parameters()).device)).float().cpu()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == torch.tensor(labels)[:, None]  # [B, 5]
        return torch.tensor([best[:, 0].sum(), best.any(dim=1).sum(), len(labels)], dtype=torch.float64)


def save_backbone(path: str | Path, classifier: Classifier, accuracy: float | None = None) -> None:
    """Write backbone and trunk as a file that `--weights` takes, with what they were trained on in its header."""
    described = {
        "backbone": to_plain(classifier.config.backbone),
        "preprocessing": to_plain(classifier.config.preprocessing),
        "classes": list(classifier.config.classes),
        "accuracy": accuracy,
    }
    tensors = published_tensors(classifier, classifier.config.backbone)
    with replacing(path) as temporary:
        save_file(tensors, temporary, {METADATA_KEY: json.dumps(described)})
