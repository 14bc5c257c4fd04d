"""Samples to batches."""

from tinydet.data.batch import Batch, Target
from tinydet.data.loader import Loader, make_loader
from tinydet.data.transforms import NO_AUGMENTATION, AugmentConfig

__all__ = ["NO_AUGMENTATION", "AugmentConfig", "Batch", "Loader", "Target", "make_loader"]
