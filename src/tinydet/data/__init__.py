"""Samples to batches."""

from tinydet.data.batch import Batch, Target
from tinydet.data.loader import Loader, make_loader
from tinydet.data.ssd_augment import SSDAugmentConfig
from tinydet.data.transforms import NO_AUGMENTATION, Augment, AugmentConfig

__all__ = [
    "NO_AUGMENTATION",
    "Augment",
    "AugmentConfig",
    "Batch",
    "Loader",
    "SSDAugmentConfig",
    "Target",
    "make_loader",
]
