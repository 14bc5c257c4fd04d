"""The training step of feature distillation on whole maps."""

from __future__ import annotations

from torch import Tensor, nn

from tinydet.data.batch import Batch
from tinydet.detectors.outputs import Detector
from tinydet.distill.features import FeatureLoss, FeatureLossConfig
from tinydet.distill.frozen import FrozenTeacher


class FeatureStep(nn.Module):
    """Detection losses and one of `FeatureLossConfig`'s together, for detectors of any two kinds with as many maps."""

    def __init__(self, detector: Detector, teacher: Detector, config: FeatureLossConfig) -> None:
        super().__init__()
        self.detector = detector
        self.loss = FeatureLoss(config, detector.feature_channels, teacher.feature_channels)
        self.config = config
        self._teacher = FrozenTeacher(teacher)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self.detector(batch)
        taught = self._teacher.features(batch)
        teacher_strides = self._teacher.detector.feature_strides
        total = outputs.unquantized_features[0].new_zeros(())
        for images in images_by_size(batch.sizes_hw):
            size_hw = batch.sizes_hw[images[0]]
            theirs = without_padding(taught, teacher_strides, images, size_hw)
            ours = without_padding(outputs.unquantized_features, outputs.strides, images, size_hw)
            total = total + self.loss(theirs, ours) * len(images) / len(batch)
        return self.detector.criterion(outputs, batch.targets) | {"distill_features": self.config.weight * total}


def images_by_size(sizes_hw: tuple[tuple[int, int], ...]) -> list[list[int]]:
    """Indices of the images of each size, so that what pads the smaller ones is compared with nothing."""
    return [[index for index, size in enumerate(sizes_hw) if size == chosen] for chosen in dict.fromkeys(sizes_hw)]


def without_padding(
    maps: tuple[Tensor, ...], strides: tuple[int, ...], images: list[int], size_hw: tuple[int, int]
) -> tuple[Tensor, ...]:
    """The chosen images' part of `[B, C_l, H_l, W_l]` maps that shows an image of `size_hw`."""
    return tuple(
        x[images, :, : -(-size_hw[0] // stride), : -(-size_hw[1] // stride)] for x, stride in zip(maps, strides)
    )
