"""Labelled images from disk: readers for each layout, and what is done with a set before training."""

from tinydet.datasets.check import check_dataset, usable_samples
from tinydet.datasets.convert import Conversion, convert_dataset
from tinydet.datasets.digits import DigitsConfig, make_digits
from tinydet.datasets.open import open_dataset
from tinydet.datasets.split import split_dataset, write_splits
from tinydet.datasets.statistics import Statistics, dataset_statistics

__all__ = [
    "Conversion",
    "DigitsConfig",
    "Statistics",
    "check_dataset",
    "convert_dataset",
    "dataset_statistics",
    "make_digits",
    "open_dataset",
    "split_dataset",
    "usable_samples",
    "write_splits",
]
