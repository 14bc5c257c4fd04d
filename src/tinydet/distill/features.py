"""Feature distillation on whole maps: three methods to compare the mimic losses with.

PKD: Cao et al. 2022, "PKD: general distillation framework for object detectors via Pearson correlation coefficient".
CWD: Shu et al. 2021, "Channel-wise knowledge distillation for dense prediction".
MGD: Yang et al. 2022, "Masked generative distillation".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class PKDConfig:
    """Pearson correlation of each channel over the batch's cells; magnitudes do not count.

    Attributes:
        weight: of the loss.
        maps: which maps are compared, 0 being the finest; None: all.
    """

    weight: float = 6.0
    maps: tuple[int, ...] | None = None


@dataclass(frozen=True)
class CWDConfig:
    """Where in the map each channel is active, as a distribution over its cells.

    Attributes:
        temperature: above 1, cells of less activity count more.
    """

    weight: float = 50.0
    temperature: float = 1.0
    maps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature {self.temperature} is not positive")


@dataclass(frozen=True)
class MGDConfig:
    """The teacher's whole map from a part of the student's cells, by two 3x3 convolutions that are trained along.

    Attributes:
        masked_share: lambda, of the cells that are hidden.
    """

    weight: float = 2e-5
    masked_share: float = 0.65
    maps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.masked_share < 1:
            raise ValueError(f"masked share {self.masked_share} is not in 0..1")


FeatureLossConfig = PKDConfig | CWDConfig | MGDConfig

_LEAST_VARIANCE = 1e-6  # a channel that is 0 everywhere stays 0, and its gradient finite


def pkd_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """1 - r, r being the Pearson correlation of a channel over batch and cells; the mean over channels.

    It is half the mean squared distance of the two maps, each channel at mean 0 and deviation 1 (Cao et al., Eq. 4).

    Args:
        teacher, student: `[B, C, H, W]`.
    """
    return 0.5 * (_standardized(student) - _standardized(teacher)).square().mean()


def _standardized(x: Tensor) -> Tensor:
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean(dim=(0, 2, 3), keepdim=True)
    return (x - mean) / (variance + _LEAST_VARIANCE).sqrt()


def cwd_loss(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """T^2 / C times the sum over channels of KL(teacher, student), each a softmax over cells; the mean over images.

    Shu et al., Eq. 2 and 3.

    Args:
        teacher, student: `[B, C, H, W]`.
    """
    of_teacher = (teacher.flatten(2) / temperature).log_softmax(dim=2)  # [B, C, H * W]
    of_student = (student.flatten(2) / temperature).log_softmax(dim=2)
    divergence = F.kl_div(of_student, of_teacher, reduction="sum", log_target=True)
    return temperature**2 * divergence / (teacher.shape[0] * teacher.shape[1])


def mgd_loss(teacher: Tensor, generated: Tensor) -> Tensor:
    """The squared distance summed over channels and cells, the mean over images (Yang et al., Eq. 4)."""
    return (teacher - generated).square().sum() / len(teacher)


def visible_cells(batch: int, size_hw: tuple[int, int], masked_share: float, like: Tensor) -> Tensor:
    """`[B, 1, H, W]`, 0 at a random `masked_share` of the cells and 1 at the others (Yang et al., Eq. 1)."""
    return (torch.rand(batch, 1, *size_hw, device=like.device) >= masked_share).to(like.dtype)


class FeatureLoss(nn.Module):
    """One of the three losses between two detectors' maps, with what it trains: 1x1 transforms and MGD's generators.

    Args:
        student_channels, teacher_channels: of every map of each detector.

    Raises:
        ValueError: the detectors differ in their number of maps, or a chosen map is not there.
    """

    def __init__(
        self, config: FeatureLossConfig, student_channels: tuple[int, ...], teacher_channels: tuple[int, ...]
    ) -> None:
        super().__init__()
        if len(student_channels) != len(teacher_channels):
            raise ValueError(f"the student has {len(student_channels)} maps, the teacher {len(teacher_channels)}")
        every = tuple(range(len(student_channels)))
        self.config, self.maps = config, every if config.maps is None else config.maps
        if not self.maps or not set(self.maps) <= set(every):
            raise ValueError(f"maps {self.maps} of {len(every)}")
        pairs = [(student_channels[level], teacher_channels[level]) for level in self.maps]
        self.transforms = nn.ModuleList(nn.Conv2d(s, t, 1) if s != t else nn.Identity() for s, t in pairs)
        self.generators = nn.ModuleList(_generator(t) for _, t in pairs if isinstance(config, MGDConfig))

    def forward(self, teacher_maps: tuple[Tensor, ...], student_maps: tuple[Tensor, ...]) -> Tensor:
        """The sum over the chosen maps of `[B, C_l, H_l, W_l]` each, without the weight.

        A student's map of another size than its teacher's is resized to it.
        """
        return torch.stack(
            [
                self._of_map(place, teacher_maps[level].detach(), student_maps[level])
                for place, level in enumerate(self.maps)
            ]
        ).sum()

    def _of_map(self, place: int, teacher: Tensor, student: Tensor) -> Tensor:
        student = self.transforms[place](student)
        if student.shape[-2:] != teacher.shape[-2:]:
            student = F.interpolate(student, teacher.shape[-2:], mode="bilinear", align_corners=False)
        match self.config:
            case PKDConfig():
                return pkd_loss(teacher, student)
            case CWDConfig(temperature=temperature):
                return cwd_loss(teacher, student, temperature)
            case MGDConfig(masked_share=share):
                visible = visible_cells(len(student), (student.shape[-2], student.shape[-1]), share, student)
                return mgd_loss(teacher, self.generators[place](student * visible))


def _generator(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, padding=1),
    )
